"""Images in a NumPy archive: what another tool or a notebook saves with `np.savez(file, images=..., labels=...)`."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from privbench.core.errors import UserError
from privbench.data.archives import read_archive
from privbench.data.base import (
    LABELS_ABSENT,
    ImageSet,
    file_split,
    files_ending,
    numbered_classes,
    numbered_names,
    require_split,
)

__all__ = ["open_npz"]


def open_npz(path: Path, split: str = "test") -> ImageSet:
    """Opens an archive, or the archive `<split>.npz` of a folder.

    The archive has `images`, `[n, height, width, channels]` or `[n, channels, height, width]` with 1 or 3 channels, uint8 or
    float in [0, 1] (then rounded to 8 bits), and optionally `labels`, `[n]` integers. Without labels every label is 0 and the
    set is flagged. An archive named as a split (`train.npz`) is that split, any other is "test".

    Args:
        path: The archive, or a folder of archives named as splits.
        split: Which split.

    Raises:
        UserError: The archive cannot be read, has no such split, or an array is not of that form.
    """
    if path.is_dir():
        require_split(str(path), split, [file.stem for file in files_ending(path, ".npz")])
        path = path / f"{split}.npz"
    else:
        require_split(str(path), split, [file_split(path.stem)])
    arrays = _read_arrays(path)
    pixels = _as_pixels(arrays["images"], path)
    labels = _as_labels(arrays["labels"], len(pixels), path) if "labels" in arrays else None

    def read(index: int) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(pixels[index]))

    return ImageSet(
        name=path.name,
        split=split,
        class_names=numbered_classes(path.name, labels or ()),
        labels=(0,) * len(pixels) if labels is None else labels,
        names=numbered_names(split, len(pixels)),
        read=read,
        nominal_labels=labels is None,
        flags=(LABELS_ABSENT,) if labels is None else (),
    )


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    arrays, names = read_archive(path, ("images", "labels"))
    if "images" not in arrays:
        raise UserError(
            f"{path} has no array 'images' but {', '.join(names) or 'nothing'}; accepted: images, and labels beside it"
        )
    return arrays


def _as_pixels(images: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    """Any accepted array as `[n, height, width, 3]` uint8."""
    if images.ndim != 4 or not {images.shape[1], images.shape[3]} & {1, 3}:
        raise UserError(
            f"{path}: images have the shape {images.shape}; accepted: [n, height, width, channels] or "
            "[n, channels, height, width] with 1 or 3 channels"
        )
    if images.shape[3] not in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if np.issubdtype(images.dtype, np.floating):
        images = _rounded(images, path)
    if images.dtype != np.uint8:
        raise UserError(f"{path}: images have the type {images.dtype}; accepted: uint8, or float in [0, 1]")
    return np.broadcast_to(images, (*images.shape[:3], 3))


def _rounded(images: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    if images.size and not (images.min() >= 0 and images.max() <= 1):  # written so that NaN fails, too
        raise UserError(f"{path}: float images range from {images.min():g} to {images.max():g}; accepted: 0 to 1")
    return np.rint(images.astype(np.float64) * 255).astype(np.uint8)


def _as_labels(labels: NDArray[Any], count: int, path: Path) -> tuple[int, ...]:
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{path}: labels have the shape {labels.shape} and the type {labels.dtype}; accepted: integers, one for each of "
            f"the {count} images"
        )
    return tuple(labels.tolist())
