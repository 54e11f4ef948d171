"""Random crops and flips of a whole batch at once, from a generator (torchvision's transforms draw from global state)."""

import torch
from torch import Tensor, nn

__all__ = ["random_crop_and_flip"]


def random_crop_and_flip(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shifts each image by up to `padding` pixels (zeros come in) and mirrors half of them.

    Args:
        images: `[batch, channels, height, width]`, any type.
        padding: Largest shift in pixels.
        generator: CPU generator.

    Returns:
        Images of the same shape and type.
    """
    batch, channels, height, width = images.shape
    padded = nn.functional.pad(images, (padding,) * 4)
    shift = torch.randint(2 * padding + 1, (batch, 2), generator=generator)
    mirrored = torch.rand(batch, generator=generator) < 0.5
    rows = shift[:, :1] + torch.arange(height)
    columns = shift[:, 1:] + torch.arange(width)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    index = (
        torch.arange(batch)[:, None, None, None],
        torch.arange(channels)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    )
    return padded[tuple(part.to(images.device) for part in index)]
