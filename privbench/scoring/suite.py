"""The set of metrics that a case is scored by: all registered ones, and a reason for each that cannot be computed here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from privbench.core.errors import UserError
from privbench.core.metric import Metric
from privbench.core.registry import METRICS
from privbench.models import file_sha256
from privbench.scoring.built_in import BUILT_IN
from privbench.scoring.factory import MetricFactory, MetricUnavailable, SuiteOptions

__all__ = ["MetricSuite", "metric_suite", "registered_metric"]


@dataclass(frozen=True)
class MetricSuite:
    """What a case is scored by.

    Attributes:
        metrics: The metrics that can be computed, in the order of the columns.
        unavailable: The others by name, each with one line: why, and what to do.
        lpips_weights_sha256: Of the file that LPIPS's trunk was read from; None where nobody gave one.
    """

    metrics: tuple[Metric, ...]
    unavailable: Mapping[str, str]
    lpips_weights_sha256: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(metric.name for metric in self.metrics)


def registered_metric(name: str) -> Metric | MetricFactory:
    """The description of a registered metric; builds no network and reads no weights.

    Args:
        name: As listed by `METRICS.names()`.

    Raises:
        UserError: No such metric, or what a third party registered under the name is not a metric of that name.
    """
    origin = METRICS.origin(name)
    try:
        found = METRICS.get(name)
    except Exception as error:
        # Whatever a third party's module raises, one broken plug-in must not take the other columns with it.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"metric '{name}' ({origin}) cannot be loaded: {reason}; repair or uninstall it") from None
    if not isinstance(found, Metric | MetricFactory):
        raise UserError(f"metric '{name}' ({origin}) is a {type(found).__name__}; accepted: a Metric or a MetricFactory")
    if found.name != name:
        raise UserError(f"metric '{name}' ({origin}) calls itself '{found.name}'; register it under its own name")
    return found


def metric_suite(
    *,
    patch_size: int | None,
    image_size: int | None = None,
    lpips_net: str = "alex",
    lpips_weights: Path | None = None,
    download: bool = False,
) -> MetricSuite:
    """All registered metrics, made for one case.

    Args:
        patch_size: Side of the victim's patches in pixels, None where it has none.
        image_size: Side of the images in pixels; given, metrics that cannot handle it are unavailable from the start instead
            of an error once the attack is over.
        lpips_net: Trunk of LPIPS: `alex`, `vgg` or `squeeze`.
        lpips_weights: File with the trunk's weights; None takes the package's (`alex`) or those in torchvision's cache.
        download: Whether to fetch the trunk's weights if they are nowhere; a failing download is a reason, not an error.

    Returns:
        The metrics, and the reasons of those that are missing.

    Raises:
        UserError: An option is wrong: an unknown `lpips_net`, or a file that does not hold its weights.
    """
    options = SuiteOptions(patch_size, image_size, lpips_net, lpips_weights, download)
    metrics: list[Metric] = []
    unavailable: dict[str, str] = {}
    for name in (*BUILT_IN, *(name for name in METRICS.names() if name not in BUILT_IN)):
        try:
            entry = registered_metric(name)
        except UserError as error:
            unavailable[name] = str(error)
            continue
        try:
            metrics.append(entry.metric(options) if isinstance(entry, MetricFactory) else entry)
        except MetricUnavailable as reason:
            unavailable[name] = str(reason)
    return MetricSuite(tuple(metrics), unavailable, None if lpips_weights is None else file_sha256(lpips_weights))
