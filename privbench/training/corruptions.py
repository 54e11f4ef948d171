"""Common corruptions of images at five severities, after Hendrycks and Dietterich (ICLR 2019, arXiv 1903.12261).

Their constants for small images (CIFAR-10-C) up to 32 pixels and for large ones (ImageNet-C) above; the operations are those of
scikit-image and Pillow. Nine of their nineteen: those that need no picture files and no other program.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import color, filters, util

__all__ = ["CORRUPTIONS", "SEVERITIES", "Pixels", "corrupt"]

Pixels = NDArray[np.float64]
"""One image, `[height, width, 3]` in [0, 1]."""

SEVERITIES = (1, 2, 3, 4, 5)
_SMALL = 32


@dataclass(frozen=True)
class _Corruption:
    """An operation and its constant at each severity, for small and for large images."""

    apply: Callable[[Pixels, Any, np.random.Generator], Pixels]
    small: tuple[Any, ...]
    large: tuple[Any, ...]


def _gaussian(image: Pixels, std: float, random: np.random.Generator) -> Pixels:
    noisy = util.random_noise(image, "gaussian", rng=random, var=std**2)  # type: ignore[no-untyped-call]
    return np.asarray(noisy)


def _impulse(image: Pixels, share: float, random: np.random.Generator) -> Pixels:
    return np.asarray(util.random_noise(image, "s&p", rng=random, amount=share))  # type: ignore[no-untyped-call]


def _blur(image: Pixels, sigma: float, _: np.random.Generator) -> Pixels:
    return np.asarray(filters.gaussian(image, sigma, channel_axis=-1))  # type: ignore[no-untyped-call]


def _shot(image: Pixels, photons: float, random: np.random.Generator) -> Pixels:
    return random.poisson(image * photons) / photons


def _contrast(image: Pixels, factor: float, _: np.random.Generator) -> Pixels:
    means = image.mean(axis=(0, 1), keepdims=True)
    return np.asarray((image - means) * factor + means)


def _hsv(image: Pixels, channel: int, factor: float, offset: float) -> Pixels:
    converted = color.rgb2hsv(image)
    converted[..., channel] = np.clip(converted[..., channel] * factor + offset, 0, 1)
    return np.asarray(color.hsv2rgb(converted))


def _picture(image: Pixels) -> Image.Image:
    return Image.fromarray(np.uint8(np.clip(image, 0, 1) * 255))


def _pixelate(image: Pixels, factor: float, _: np.random.Generator) -> Pixels:
    height, width = image.shape[:2]
    small = _picture(image).resize((int(width * factor), int(height * factor)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX)) / 255


def _jpeg(image: Pixels, quality: int, _: np.random.Generator) -> Pixels:
    buffer = io.BytesIO()
    _picture(image).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as picture:
        return np.asarray(picture) / 255


CORRUPTIONS: Mapping[str, _Corruption] = {
    "gaussian-noise": _Corruption(_gaussian, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot-noise": _Corruption(_shot, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse-noise": _Corruption(_impulse, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "gaussian-blur": _Corruption(_blur, (0.4, 0.6, 0.7, 0.8, 1), (1, 2, 3, 4, 6)),
    "brightness": _Corruption(
        lambda image, offset, _: _hsv(image, 2, 1, offset), (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)
    ),
    "contrast": _Corruption(_contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "saturate": _Corruption(
        lambda image, line, _: _hsv(image, 1, *line),
        ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    ),
    "pixelate": _Corruption(_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg": _Corruption(_jpeg, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}
"""By name."""


def corrupt(image: Pixels, name: str, severity: int, random: np.random.Generator) -> Pixels:
    """Corrupts one image.

    Args:
        image: `[height, width, 3]` in [0, 1].
        name: One of `CORRUPTIONS`.
        severity: From 1 to 5.
        random: Source of the noise.

    Returns:
        The same shape and range.
    """
    corruption = CORRUPTIONS[name]
    constants = corruption.small if max(image.shape[:2]) <= _SMALL else corruption.large
    return np.clip(corruption.apply(image, constants[severity - 1], random), 0, 1)
