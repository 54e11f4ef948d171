"""Metrics that depend on the case: some need the victim's patch size, some weights that may not be there.

A `MetricFactory` has the same description as a `Metric` (so that a list of metrics builds no network) and makes the function
once the case is known, or says why it cannot.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

from privbench.core.metric import Metric

__all__ = ["Compute", "MetricFactory", "MetricUnavailable", "SuiteOptions"]

Compute: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""`(reconstruction, original)`, both `[batch, 3, height, width]` in [0, 1], to `[batch]`."""


class MetricUnavailable(Exception):  # noqa: N818 (not a mistake of anyone: the record shows the reason instead of a value)
    """The metric cannot be computed here; the message is one line with the reason and what to do."""


@dataclass(frozen=True)
class SuiteOptions:
    """What a factory may need to know.

    Attributes:
        patch_size: Side of the victim's patches in pixels, None where it has no patches.
        image_size: Side of the images in pixels, None where it is not known yet.
        lpips_net: Trunk of LPIPS: `alex`, `vgg` or `squeeze`.
        lpips_weights: File with the trunk's weights; None takes the package's (`alex`) or those in torchvision's cache.
        download: Whether the trunk's weights may be downloaded.
    """

    patch_size: int | None = None
    image_size: int | None = None
    lpips_net: str = "alex"
    lpips_weights: Path | None = None
    download: bool = False


@dataclass(frozen=True)
class MetricFactory:
    """A metric that is built for a case; the description means the same as in `Metric`.

    Attributes:
        name: Column name.
        build: Makes the function. Raises `MetricUnavailable` with the reason where the case does not allow the metric, and
            `UserError` where an option is wrong.
        higher_is_leakier: True if a larger value means that more of the image came back.
        worst: The value that a failed trial gets.
        best: The value of an exact match.
        unit: "dB", or empty.
        summary: One sentence: definition, range, source.
    """

    name: str
    build: Callable[[SuiteOptions], Compute]
    higher_is_leakier: bool
    worst: float
    best: float
    unit: str = ""
    summary: str = ""

    def metric(self, options: SuiteOptions) -> Metric:
        """The metric for one case.

        Raises:
            MetricUnavailable: The case does not allow it.
            UserError: An option is wrong.
        """
        return Metric(
            name=self.name,
            compute=self.build(options),
            higher_is_leakier=self.higher_is_leakier,
            worst=self.worst,
            best=self.best,
            unit=self.unit,
            summary=self.summary,
        )
