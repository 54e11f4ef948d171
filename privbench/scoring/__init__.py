"""Honest scores of reconstructions: metrics, pairing of a batch, permutation-invariant scores, intervals.

A third party adds a metric as a `privbench.core.Metric` (or a `MetricFactory`) through the entry-point group
`privbench.metrics`; `metric_suite` then includes it.
"""

from typing import TYPE_CHECKING

from privbench.core.lazy import imported_on_use
from privbench.scoring.built_in import BUILT_IN

if TYPE_CHECKING:
    from privbench.scoring.calibration import CALIBRATION_ROWS, calibration_pictures
    from privbench.scoring.choices import ChoiceScores, mask_accuracy, order_accuracy, score_choices
    from privbench.scoring.factory import Compute, MetricFactory, MetricUnavailable, SuiteOptions
    from privbench.scoring.fourier import fft2d_cosine, fft2d_mse
    from privbench.scoring.metrics import PSNR_CAP, SSIM_WINDOW, mse, psnr, ssim, ssim_zero_padded
    from privbench.scoring.paired import PAIRED_TEST, PairedDifference, holm, paired_difference
    from privbench.scoring.pairing import pair
    from privbench.scoring.patches import best_placement
    from privbench.scoring.perceptual import LPIPS_MINIMUM
    from privbench.scoring.pixels import from_uint8, to_uint8
    from privbench.scoring.positions import POSITION_FOLDS, pairwise_position_error, position_errors
    from privbench.scoring.score import ImageScores, failed_scores, score_batch
    from privbench.scoring.suite import MetricSuite, metric_suite, registered_metric
    from privbench.scoring.summary import bootstrap_interval, student_interval, summarise

__all__ = [
    "BUILT_IN",
    "CALIBRATION_ROWS",
    "LPIPS_MINIMUM",
    "PAIRED_TEST",
    "POSITION_FOLDS",
    "PSNR_CAP",
    "SSIM_WINDOW",
    "ChoiceScores",
    "Compute",
    "ImageScores",
    "MetricFactory",
    "MetricSuite",
    "MetricUnavailable",
    "PairedDifference",
    "SuiteOptions",
    "best_placement",
    "bootstrap_interval",
    "calibration_pictures",
    "failed_scores",
    "fft2d_cosine",
    "fft2d_mse",
    "from_uint8",
    "holm",
    "mask_accuracy",
    "metric_suite",
    "mse",
    "order_accuracy",
    "pair",
    "paired_difference",
    "pairwise_position_error",
    "position_errors",
    "psnr",
    "registered_metric",
    "score_batch",
    "score_choices",
    "ssim",
    "ssim_zero_padded",
    "student_interval",
    "summarise",
    "to_uint8",
]

_NAMES = {
    "calibration": (
        "CALIBRATION_ROWS",
        "calibration_pictures",
    ),
    "choices": (
        "ChoiceScores",
        "mask_accuracy",
        "order_accuracy",
        "score_choices",
    ),
    "factory": (
        "Compute",
        "MetricFactory",
        "MetricUnavailable",
        "SuiteOptions",
    ),
    "fourier": (
        "fft2d_cosine",
        "fft2d_mse",
    ),
    "metrics": (
        "PSNR_CAP",
        "SSIM_WINDOW",
        "mse",
        "psnr",
        "ssim",
        "ssim_zero_padded",
    ),
    "paired": (
        "PAIRED_TEST",
        "PairedDifference",
        "holm",
        "paired_difference",
    ),
    "pairing": ("pair",),
    "patches": ("best_placement",),
    "perceptual": ("LPIPS_MINIMUM",),
    "pixels": (
        "from_uint8",
        "to_uint8",
    ),
    "positions": (
        "POSITION_FOLDS",
        "pairwise_position_error",
        "position_errors",
    ),
    "score": (
        "ImageScores",
        "failed_scores",
        "score_batch",
    ),
    "suite": (
        "MetricSuite",
        "metric_suite",
        "registered_metric",
    ),
    "summary": (
        "bootstrap_interval",
        "student_interval",
        "summarise",
    ),
}
"""Module to what it holds; a test compares it with the imports above."""

if not TYPE_CHECKING:
    __getattr__, __dir__ = imported_on_use(__name__, _NAMES)
