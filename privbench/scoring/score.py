"""The scores of one batch: paired once, measured on the float pixels and again on the 8 bits that a saved picture holds."""

from dataclasses import dataclass

import torch
from torch import Tensor

from privbench.core.metric import Metric
from privbench.scoring.pairing import pair
from privbench.scoring.pixels import check_pair, from_uint8, to_uint8
from privbench.scoring.suite import MetricSuite

__all__ = ["ImageScores", "failed_scores", "score_batch"]


@dataclass(frozen=True)
class ImageScores:
    """What came back of one original.

    Attributes:
        scores: Metric name to value, on the attack's float pixels.
        scores_saved: The same with the reconstruction rounded by `to_uint8`; the original is never rounded.
        source: Which reconstruction of the batch was paired with this original.
    """

    scores: dict[str, float]
    scores_saved: dict[str, float]
    source: int


@torch.no_grad()
def score_batch(reconstruction: Tensor, original: Tensor, suite: MetricSuite) -> list[ImageScores]:
    """Scores a batch.

    The metrics get float32 on the CPU, whatever comes in; float32 is finer than the cap of PSNR.

    Args:
        reconstruction: `[batch, 3, height, width]`, float, in [0, 1], in any order of images.
        original: The same shape and range.
        suite: What to measure.

    Returns:
        One entry per original, in the originals' order.

    Raises:
        ValueError: NaN, infinite or out-of-range pixels, unequal shapes; the message names the argument.
        UserError: The images are too small for a metric or do not fit the patch size.
        RuntimeError: A third party's metric broke its contract.
    """
    check_pair(reconstruction, original)
    source = pair(reconstruction, original)
    aligned = reconstruction.detach().cpu()[source]
    truth = original.detach().cpu().float()
    scores = _measure(suite, aligned.float(), truth)
    saved = _measure(suite, from_uint8(to_uint8(aligned)), truth)
    return [ImageScores(*values) for values in zip(scores, saved, source.tolist(), strict=True)]


def _measure(suite: MetricSuite, reconstruction: Tensor, original: Tensor) -> list[dict[str, float]]:
    columns = {metric.name: _values(metric, reconstruction, original) for metric in suite.metrics}
    return [{name: column[index] for name, column in columns.items()} for index in range(len(original))]


def _values(metric: Metric, reconstruction: Tensor, original: Tensor) -> list[float]:
    values = metric.compute(reconstruction, original)
    if values.shape != original.shape[:1]:
        raise RuntimeError(
            f"metric {metric.name} returned shape {tuple(values.shape)} for {len(original)} images; one value each"
        )
    if not torch.isfinite(values).all():
        raise RuntimeError(f"metric {metric.name} returned NaN or an infinite value for finite images; cap it")
    return [float(value) for value in values]


def failed_scores(suite: MetricSuite) -> dict[str, float]:
    """The scores of an image whose attack failed: the worst value of every metric, so that a failure counts as one."""
    return {metric.name: metric.worst for metric in suite.metrics}
