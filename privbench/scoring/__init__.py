"""Honest scores of reconstructions: metrics, pairing of a batch, permutation-invariant scores, intervals.

A third party adds a metric as a `privbench.core.Metric` (or a `MetricFactory`) through the entry-point group
`privbench.metrics`; `metric_suite` then includes it.
"""

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
from privbench.scoring.suite import BUILT_IN, MetricSuite, metric_suite, registered_metric
from privbench.scoring.summary import bootstrap_interval, summarise

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
    "summarise",
    "to_uint8",
]
