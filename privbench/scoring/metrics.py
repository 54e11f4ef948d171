"""The pixel metrics of the field, by scikit-image, one value PER IMAGE.

Public scorers pool the squared error of a batch before the logarithm, or let one exact image make a mean infinite; both are
impossible here: every image is scored alone, and PSNR ends at `PSNR_CAP`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn

from privbench.core.errors import UserError
from privbench.core.metric import Metric
from privbench.scoring.factory import Compute, MetricFactory, MetricUnavailable, SuiteOptions

__all__ = [
    "MSE",
    "PSNR",
    "PSNR_CAP",
    "SSIM",
    "SSIM_WINDOW",
    "SSIM_ZERO_PADDED",
    "mse",
    "psnr",
    "ssim",
    "ssim_zero_padded",
]

PSNR_CAP = 150.0
"""PSNR of an exact match in dB. Rounding a picture to float32 alone costs about this much, so nothing real lies above."""

_SIGMA = 1.5
SSIM_WINDOW = 11
"""Side of the Gaussian window of SSIM in pixels (standard deviation 1.5, cut off at 3.5 deviations)."""

_Image = NDArray[np.float64]

_skimage_psnr: Callable[..., float] = peak_signal_noise_ratio
_skimage_ssim: Callable[..., float] = structural_similarity


def _per_image(score: Callable[[_Image, _Image], Any], reconstruction: Tensor, original: Tensor) -> Tensor:
    pairs = zip(_arrays(reconstruction), _arrays(original), strict=True)
    return torch.tensor([float(score(truth, guess)) for guess, truth in pairs], dtype=torch.float64)


def _arrays(images: Tensor) -> _Image:
    array: _Image = images.detach().cpu().double().numpy()
    return array


def mse(reconstruction: Tensor, original: Tensor) -> Tensor:
    """Mean squared error over the pixels and channels of each image.

    Args:
        reconstruction: `[batch, 3, height, width]` in [0, 1].
        original: The same shape and range.

    Returns:
        `[batch]` float64 in [0, 1]; 0 for an exact match.
    """
    return _per_image(mean_squared_error, reconstruction, original)


def psnr(reconstruction: Tensor, original: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, `-10 log10(MSE)` for a data range of 1.

    Args:
        reconstruction: `[batch, 3, height, width]` in [0, 1].
        original: The same shape and range.

    Returns:
        `[batch]` float64 in dB, from 0 (black against white) to `PSNR_CAP` (exact, or closer than the cap can tell).
    """

    def score(truth: _Image, guess: _Image) -> float:
        # An exact match divides by zero; the cap takes the place of the infinity.
        with np.errstate(divide="ignore"):
            return min(float(_skimage_psnr(truth, guess, data_range=1.0)), PSNR_CAP)

    return _per_image(score, reconstruction, original)


def ssim(reconstruction: Tensor, original: Tensor) -> Tensor:
    """Structural similarity of each image as Wang et al. (2004) define it, mean over the three channels.

    Gaussian window of 11 x 11 pixels with standard deviation 1.5, population covariance, data range 1, averaged over the
    places where the window lies inside the image (22 x 22 of them at 32 x 32).

    Args:
        reconstruction: `[batch, 3, height, width]` in [0, 1], height and width at least `SSIM_WINDOW`.
        original: The same shape and range.

    Returns:
        `[batch]` float64 in [-1, 1]; 1 for an exact match, 0 for no common structure, negative for inverted structure.

    Raises:
        UserError: The image is smaller than the window.
    """
    height, width = original.shape[-2:]
    if min(height, width) < SSIM_WINDOW:
        raise UserError(_too_small(min(height, width)))

    def score(truth: _Image, guess: _Image) -> float:
        value = _skimage_ssim(
            truth, guess, data_range=1.0, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        return float(np.clip(value, -1.0, 1.0))

    return _per_image(score, reconstruction, original)


def ssim_zero_padded(reconstruction: Tensor, original: Tensor) -> Tensor:
    """Structural similarity with the window over the border too, zeros around the image: the variant of MJP's scorer.

    The same window and constants as `ssim`, averaged over every pixel of the image. At the border both images share the zeros
    outside, so that values differ from those of `ssim` and must not stand beside them.

    Args:
        reconstruction: `[batch, 3, height, width]` in [0, 1].
        original: The same shape and range.

    Returns:
        `[batch]` float64 in [-1, 1].
    """
    places = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    line = torch.exp(-places.square() / (2 * _SIGMA**2))
    window = torch.outer(line, line) / line.sum() ** 2
    kernel = window.expand(3, 1, -1, -1)

    def mean(values: Tensor) -> Tensor:
        return nn.functional.conv2d(values, kernel, padding=SSIM_WINDOW // 2, groups=3)

    guess, truth = (images.detach().cpu().double() for images in (reconstruction, original))
    here, there = mean(guess), mean(truth)
    spread = mean(guess * guess) - here.square() + mean(truth * truth) - there.square()
    common = mean(guess * truth) - here * there
    first, second = 0.01**2, 0.03**2
    similar = (2 * here * there + first) * (2 * common + second)
    similar = similar / ((here.square() + there.square() + first) * (spread + second))
    return similar.flatten(1).mean(1).clamp(-1, 1)


def _too_small(side: int) -> str:
    return f"SSIM needs {SSIM_WINDOW} pixels a side, the images' shorter side has {side}; give larger images or leave SSIM out"


def ssim_for(options: SuiteOptions) -> Compute:
    """`ssim`, or the reason why the images of this case are too small for it.

    Raises:
        MetricUnavailable: The image size is known and smaller than the window.
    """
    if options.image_size is not None and options.image_size < SSIM_WINDOW:
        raise MetricUnavailable(_too_small(options.image_size))
    return ssim


SSIM_ZERO_PADDED = Metric(
    name="ssim_zero_padded",
    compute=ssim_zero_padded,
    higher_is_leakier=True,
    worst=0.0,
    best=1.0,
    summary=(
        "Structural similarity with zeros around the image, as MJP's scorer computes it; not comparable with ssim; from -1 "
        "(inverted) over 0 (nothing in common) to 1 (exact)."
    ),
)

MSE = Metric(
    name="mse",
    compute=mse,
    higher_is_leakier=False,
    worst=1.0,
    best=0.0,
    summary="Mean squared error per image, pixels in [0, 1]; from 0 (exact) to 1 (black against white).",
)

PSNR = Metric(
    name="psnr",
    compute=psnr,
    higher_is_leakier=True,
    worst=0.0,
    best=PSNR_CAP,
    unit="dB",
    summary=(
        "Peak signal-to-noise ratio per image for a data range of 1; from 0 (the least possible) to 150, where exact matches "
        "are capped."
    ),
)

SSIM = MetricFactory(
    name="ssim",
    build=ssim_for,
    higher_is_leakier=True,
    # Not -1: inverted structure is structure that came back. 0 is what unrelated images get.
    worst=0.0,
    best=1.0,
    summary=(
        "Structural similarity (Wang et al. 2004: 11x11 Gaussian window, sigma 1.5), mean over channels; from -1 (inverted) "
        "over 0 (nothing in common) to 1 (exact)."
    ),
)
