"""Augmentation of a whole batch at once on its own device, from a generator (torchvision's transforms draw from global state).

Crops and flips; one operation of TrivialAugment (Müller and Hutter, ICCV 2021, arXiv 2103.10158) for each image, in ranges for
small images; random erasing (Zhong et al., AAAI 2020); mixup and CutMix (Yun et al., ICCV 2019) of images and labels.
Everything is without branches on values, so that a GPU is never waited for.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["Border", "erase", "mix", "random_crop_and_flip", "trivial_augment"]

Border = Literal["constant", "reflect"]
"""What comes in where a crop leaves its image: black, or the image's reflection; a mode of `torch.nn.functional.pad`."""

_GREY = (0.299, 0.587, 0.114)
_SHEAR, _SHIFT, _TURN = 0.3, 0.3, math.radians(30)
_COLOUR = 0.8
_ERASED = (0.02, 0.2)


def _uniform(shape: tuple[int, ...], generator: torch.Generator, like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    drawn = torch.rand(shape, generator=generator, device=generator.device)
    return (low + (high - low) * drawn).to(like.device)


def random_crop_and_flip(images: Tensor, padding: int, generator: torch.Generator, border: Border = "constant") -> Tensor:
    """Shifts each image by up to `padding` pixels and mirrors half of them.

    Args:
        images: `[batch, channels, height, width]`, any type.
        padding: Largest shift in pixels.
        generator: On the CPU or the images' device.
        border: What comes in where the shift leaves the image.

    Returns:
        Images of the same shape and type.
    """
    batch, channels, height, width = images.shape
    device = images.device
    padded = nn.functional.pad(images.float(), (padding,) * 4, mode=border).to(images.dtype)
    shift = torch.randint(2 * padding + 1, (batch, 2), generator=generator, device=generator.device).to(device)
    mirrored = _uniform((batch,), generator, images) < 0.5
    rows = shift[:, :1] + torch.arange(height, device=device)
    columns = shift[:, 1:] + torch.arange(width, device=device)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    return padded[
        torch.arange(batch, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def trivial_augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Applies to each image one operation of a fixed list, drawn uniformly, at a strength drawn uniformly.

    Identity, shear and shift along both axes, rotation, brightness, contrast, saturation, sharpness, posterising, solarising
    and stretching of the contrast.

    Args:
        images: `[batch, 3, height, width]` in [0, 1].
        generator: On the CPU or the images' device.

    Returns:
        The same shape and range.
    """
    batch = len(images)
    chosen = torch.randint(6 + len(_COLOURS), (batch,), generator=generator, device=generator.device).to(images.device)
    strength = _uniform((batch,), generator, images, -1.0)
    changed = _moved(images, chosen, strength)
    amount = strength[:, None, None, None]
    for number, change in enumerate(_COLOURS, start=6):
        changed = torch.where((chosen == number)[:, None, None, None], change(images, amount), changed)
    return changed.clamp(0, 1)


def _moved(images: Tensor, chosen: Tensor, strength: Tensor) -> Tensor:
    """Operations 1 to 5 as one bilinear resampling; the others keep the image."""
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)

    def where(number: int, size: Tensor) -> Tensor:
        return torch.where(chosen == number, size, zero)

    angle = where(5, _TURN * strength)
    rows = [
        torch.stack([angle.cos() * one, where(1, _SHEAR * strength) - angle.sin(), where(3, 2 * _SHIFT * strength)], dim=1),
        torch.stack([where(2, _SHEAR * strength) + angle.sin(), angle.cos() * one, where(4, 2 * _SHIFT * strength)], dim=1),
    ]
    grid = nn.functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    moved = nn.functional.grid_sample(images, grid, align_corners=False)
    return torch.where(((chosen >= 1) & (chosen <= 5))[:, None, None, None], moved, images)


def _grey(images: Tensor) -> Tensor:
    weights = torch.tensor(_GREY, device=images.device, dtype=images.dtype).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def _contrast(images: Tensor, amount: Tensor) -> Tensor:
    middle = _grey(images).mean((1, 2, 3), keepdim=True)
    return middle + (images - middle) * (1 + _COLOUR * amount)


def _saturation(images: Tensor, amount: Tensor) -> Tensor:
    grey = _grey(images)
    return grey + (images - grey) * (1 + _COLOUR * amount)


def _sharpness(images: Tensor, amount: Tensor) -> Tensor:
    blurred = nn.functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    return blurred + (images - blurred) * (1 + _COLOUR * amount)


def _posterised(images: Tensor, amount: Tensor) -> Tensor:
    levels = torch.exp2((8 - 5 * amount.abs()).round())
    return (images * levels).floor().clamp(max=levels - 1) / (levels - 1)


def _solarised(images: Tensor, amount: Tensor) -> Tensor:
    return torch.where(images >= 1 - amount.abs(), 1 - images, images)


def _stretched(images: Tensor, _: Tensor) -> Tensor:
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, (images - low) / (high - low).clamp(min=1e-3), images)


_COLOURS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda images, amount: images * (1 + _COLOUR * amount),
    _contrast,
    _saturation,
    _sharpness,
    _posterised,
    _solarised,
    _stretched,
)


def _rectangles(images: Tensor, area: Tensor, aspect: Tensor, generator: torch.Generator) -> Tensor:
    """`[batch, 1, height, width]` bool: a rectangle of a share `[batch]` of the image, cut off at its borders."""
    batch, _, height, width = images.shape
    device = images.device
    half_height, half_width = (area * aspect).sqrt() * height / 2, (area / aspect).sqrt() * width / 2
    middle_row, middle_column = (_uniform((batch,), generator, images) * side for side in (height, width))
    rows = (torch.arange(height, device=device) + 0.5 - middle_row[:, None]).abs() < half_height[:, None]
    columns = (torch.arange(width, device=device) + 0.5 - middle_column[:, None]).abs() < half_width[:, None]
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def erase(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Covers a rectangle of 2 % to 20 % of some images with grey.

    Args:
        images: `[batch, 3, height, width]` in [0, 1].
        probability: Share of the images.
        generator: On the CPU or the images' device.
    """
    batch = (len(images),)
    wanted = _uniform(batch, generator, images) < probability
    area = _uniform(batch, generator, images, *_ERASED)
    aspect = _uniform(batch, generator, images, -1.0).exp()
    covered = _rectangles(images, area, aspect, generator) & wanted[:, None, None, None]
    return torch.where(covered, 0.5, images)


def mix(images: Tensor, targets: Tensor, probability: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mixes some images with another one of the batch, one half by mixup, one half by CutMix, with a uniform coefficient.

    Args:
        images: `[batch, 3, height, width]` in [0, 1].
        targets: `[batch, classes]` probabilities, mixed alike.
        probability: Share of the images.
        generator: On the CPU or the images' device.
    """
    batch = (len(images),)
    wanted = _uniform(batch, generator, images) < probability
    cut = _uniform(batch, generator, images) < 0.5
    share = _uniform(batch, generator, images)
    box = _rectangles(images, 1 - share, torch.ones_like(share), generator)
    kept = torch.where(cut[:, None, None, None], (~box).to(images), share[:, None, None, None])
    kept = torch.where(wanted[:, None, None, None], kept, torch.ones_like(kept[:1, :1, :1, :1]))
    own = kept.mean((1, 2, 3))[:, None]
    # The batch is in random order already.
    return kept * images + (1 - kept) * images.roll(1, 0), own * targets + (1 - own) * targets.roll(1, 0)
