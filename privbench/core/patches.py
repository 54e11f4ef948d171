"""The patch grid: images to patches and back, in the row-by-row order in which vision transformers count."""

from torch import Tensor

__all__ = ["from_patches", "rearrange", "to_patches"]


def to_patches(images: Tensor, size: int) -> Tensor:
    """Cuts images into patches.

    Args:
        images: `[batch, channels, height, width]`; height and width are multiples of `size`.
        size: Side of a patch in pixels.

    Returns:
        `[batch, patches, channels, size, size]`, row by row.
    """
    batch, channels, height, width = images.shape
    cut = images.reshape(batch, channels, height // size, size, width // size, size)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels, size, size)


def from_patches(patches: Tensor, height: int, width: int) -> Tensor:
    """Puts patches together again; the inverse of `to_patches`.

    Args:
        patches: `[batch, patches, channels, size, size]`, row by row.
        height: Height of the images in pixels.
        width: Width of the images in pixels.

    Returns:
        `[batch, channels, height, width]`.
    """
    batch, _, channels, size, _ = patches.shape
    grid = patches.reshape(batch, height // size, width // size, channels, size, size)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, height, width)


def rearrange(images: Tensor, order: Tensor, size: int) -> Tensor:
    """Moves patches: position `j` of the result holds patch `order[j]` of the input; differentiable.

    Args:
        images: `[batch, channels, height, width]`.
        order: `[patches]` int64, one order for the whole batch.
        size: Side of a patch in pixels.

    Returns:
        Images of the same shape.
    """
    return from_patches(to_patches(images, size)[:, order], images.shape[-2], images.shape[-1])
