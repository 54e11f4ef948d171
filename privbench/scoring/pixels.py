"""Pixels on their way into the scores: what counts as an image, and the one rounding rule from float to 8 bits.

Whatever saves a reconstruction uses `to_uint8`, so that the scores of the saved picture are the scores of the file.
"""

import torch
from torch import Tensor

__all__ = ["check_images", "check_pair", "from_uint8", "to_uint8"]


def check_images(images: Tensor, name: str) -> None:
    """Refuses anything that is not a batch of images, before it becomes a NaN in a table.

    Args:
        images: Should be `[batch, 3, height, width]`, float, in [0, 1], batch at least 1.
        name: What the images are, for the message ("reconstruction").

    Raises:
        ValueError: Names the argument, what is wrong with it, and the first image concerned.
    """
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"{name} has shape {tuple(images.shape)}; accepted: [batch, 3, height, width], nothing empty")
    if not images.is_floating_point():
        raise ValueError(f"{name} has dtype {images.dtype}; accepted: float in [0, 1] (from_uint8 converts 8-bit pixels)")
    per_image = images.flatten(1)
    broken = ~torch.isfinite(per_image).all(dim=1)
    if broken.any():
        raise ValueError(f"{name} {_first(broken)} holds NaN or infinite pixels; accepted: finite values in [0, 1]")
    outside = (per_image < 0).any(dim=1) | (per_image > 1).any(dim=1)
    if outside.any():
        low, high = per_image.min().item(), per_image.max().item()
        raise ValueError(
            f"{name} {_first(outside)} leaves [0, 1]: the batch spans {low:g} to {high:g}; clip or un-normalise it"
        )


def _first(flagged: Tensor) -> int:
    return int(flagged.nonzero()[0].item())


def check_pair(reconstruction: Tensor, original: Tensor) -> None:
    """Refuses two batches that cannot be compared.

    Args:
        reconstruction: Should be `[batch, 3, height, width]`, float, in [0, 1].
        original: Should be the same, of the same shape.

    Raises:
        ValueError: One of them is not a batch of images, or the shapes differ.
    """
    check_images(reconstruction, "reconstruction")
    check_images(original, "original")
    if reconstruction.shape != original.shape:
        raise ValueError(
            f"reconstruction has shape {tuple(reconstruction.shape)}, original {tuple(original.shape)}; accepted: equal"
        )


def to_uint8(images: Tensor) -> Tensor:
    """Rounds float pixels to the 8 bits of a saved picture: `floor(255 x + 1/2)`, ties away from zero.

    This is the rounding of `torchvision.utils.save_image`; truncation (as in `ToPILImage`) would darken by half a level.

    Args:
        images: `[batch, 3, height, width]`, float, in [0, 1].

    Returns:
        `[batch, 3, height, width]` uint8 on the same device.

    Raises:
        ValueError: Not images, not finite, or outside [0, 1].
    """
    check_images(images, "images")
    return (images.detach().double() * 255 + 0.5).floor().to(torch.uint8)


def from_uint8(images: Tensor) -> Tensor:
    """8-bit pixels as float32 in [0, 1]: `k / 255`, undone exactly by `to_uint8`.

    Args:
        images: uint8, any shape.

    Returns:
        float32 of the same shape.

    Raises:
        ValueError: The tensor is not uint8.
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"images have dtype {images.dtype}; accepted: uint8")
    return images.to(torch.float32) / 255
