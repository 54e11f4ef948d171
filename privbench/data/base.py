"""The contract of private images: an `ImageSet` is named, labelled images that are decoded when they are asked for.

Attacks take a few images of it with `load`, `privbench train` takes all of them with `as_tensors`. Whatever the source, the
pixels follow the one rule of `privbench.data.pixels`.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from privbench.core.errors import UserError, unknown_name
from privbench.data.pixels import fit

__all__ = [
    "LABELS_ABSENT",
    "SPLIT_NAMES",
    "ImageSet",
    "Opener",
    "data_folder",
    "file_split",
    "files_ending",
    "numbered_classes",
    "numbered_names",
    "require_split",
]

SPLIT_NAMES = ("train", "val", "validation", "test")
"""Names of files and folders that are read as splits."""

LABELS_ABSENT = "labels-absent"
"""Flag of a set whose source holds no labels: every image has label 0."""

_MAX_CLASSES = 1_000_000


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images, decoded lazily.

    Attributes:
        name: The data set, as a table would call it.
        split: Which part of it, such as "test".
        class_names: One name per class.
        labels: One class index per image.
        names: One name per image, such as "astronaut", "test-00012" or "n01440764/ILSVRC2012_val_00000293.JPEG".
        read: Gives the image at a position as upright 8-bit RGB; raises `UserError` where it cannot be decoded.
        nominal_labels: Whether the labels do not name the content: they are there because a client's loss needs some label.
        flags: Remarks for the reader of a score, such as `labels-absent`.
        left_out: Files beside the images that are none, by ending, in one line; empty where there are none.

    Raises:
        UserError: There are no images, or a label has no class.
    """

    name: str
    split: str
    class_names: tuple[str, ...] = field(repr=False)
    labels: tuple[int, ...] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    read: Callable[[int], Image.Image] = field(repr=False)
    nominal_labels: bool = False
    flags: tuple[str, ...] = ()
    left_out: str = ""

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.names):
            raise ValueError(f"{len(self.labels)} labels for {len(self.names)} images")
        if not self.names:
            raise UserError(f"{self.name} ({self.split}) has no images")
        self._require_labels(len(self.class_names))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def has_class_names(self) -> bool:
        """Whether its classes have names, and not numbers alone because the source has none."""
        return self.class_names != tuple(map(str, range(len(self.class_names))))

    def image_name(self, index: int) -> str:
        """Name of the image at a position.

        Raises:
            UserError: There is no such position.
        """
        return self.names[self._checked(index)]

    def label(self, index: int) -> int:
        """Class of the image at a position.

        Raises:
            UserError: There is no such position.
        """
        return self.labels[self._checked(index)]

    def load(self, indices: Sequence[int], image_size: int) -> tuple[Tensor, Tensor]:
        """Decodes a few images.

        Args:
            indices: Positions, in the order of the result.
            image_size: Height and width that the model takes, in pixels.

        Returns:
            Images `[n, 3, image_size, image_size]` float32 in [0, 1] and labels `[n]` int64.

        Raises:
            UserError: There is no such position, or an image is damaged or smaller than `image_size`.
        """
        pixels, labels = self._stack(indices, image_size)
        return pixels.to(torch.float32).div_(255), labels

    def as_tensors(self, image_size: int, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """Decodes the whole set, or its first images, for training.

        Args:
            image_size: Height and width that the model takes, in pixels.
            limit: How many images at most; None: all.

        Returns:
            Images `[n, 3, image_size, image_size]` uint8 and labels `[n]` int64.

        Raises:
            UserError: An image is damaged or smaller than `image_size`.
        """
        return self._stack(range(len(self))[:limit], image_size)

    def fingerprint(self, indices: Sequence[int], image_size: int) -> str:
        """SHA-256 of the selected pixels as the model sees them (8 bits, resized) and of their labels.

        File names and folders do not enter: the same content gives the same fingerprint everywhere.

        Raises:
            UserError: As for `load`.
        """
        digest = hashlib.sha256(f"{len(indices)} images of {image_size}\n".encode())
        for index in indices:
            digest.update(self._pixels(index, image_size).tobytes())
            digest.update(self.labels[index].to_bytes(8, "little"))
        return digest.hexdigest()

    def for_classes(self, num_classes: int) -> "ImageSet":
        """The same images for a model with so many classes.

        Nominal labels are taken modulo `num_classes`, real ones are never changed.

        Raises:
            UserError: An image has a real label that the model does not know.
        """
        if not self.nominal_labels:
            self._require_labels(num_classes)
            return self
        classes = (*self.class_names, *map(str, range(len(self.class_names), num_classes)))[:num_classes]
        return replace(self, class_names=classes, labels=tuple(label % num_classes for label in self.labels))

    def _require_labels(self, num_classes: int) -> None:
        for name, label in zip(self.names, self.labels, strict=True):
            if not 0 <= label < num_classes:
                raise UserError(
                    f"{self.name} ({self.split}): image {name} has label {label}; accepted: 0 to {num_classes - 1}, "
                    "one per class"
                )

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise UserError(f"{self.name} ({self.split}) has no image {index}; accepted: 0 to {len(self) - 1}")
        return index

    def _pixels(self, index: int, image_size: int) -> NDArray[np.uint8]:
        name = self.image_name(index)
        return fit(self.read(index), image_size, name)

    def _stack(self, indices: Sequence[int], image_size: int) -> tuple[Tensor, Tensor]:
        pixels = np.empty((len(indices), image_size, image_size, 3), np.uint8)
        for row, index in enumerate(indices):
            pixels[row] = self._pixels(index, image_size)
        labels = torch.tensor([self.labels[index] for index in indices], dtype=torch.int64)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels


class Opener(Protocol):
    """What a registered data set is: a function that opens one split."""

    def __call__(self, split: str = "test", *, root: Path | None = None) -> ImageSet:
        """Opens a split.

        Args:
            split: Which one.
            root: The data folder; None: as of `data_folder`.

        Raises:
            UserError: There is no such split, or the data cannot be had.
        """
        ...


def require_split(name: str, given: str, available: Iterable[str]) -> None:
    """Checks that a data set has a split.

    Raises:
        UserError: It has not; the message lists those it has.
    """
    known = sorted(available)
    if given not in known:
        raise unknown_name(f"split of {name}", given, known)


def file_split(stem: str) -> str:
    """The split that a single file is: its name without ending where that is a split's name, else "test"."""
    return stem if stem in SPLIT_NAMES else "test"


def data_folder(root: Path | None = None) -> Path:
    """Where named data sets lie: `root`, else what the variable PRIVBENCH_DATA says, else ~/.cache/privbench."""
    return root or Path(os.environ.get("PRIVBENCH_DATA") or "~/.cache/privbench").expanduser()


def files_ending(folder: Path, ending: str) -> list[Path]:
    """The files with an ending directly in a folder, sorted by name; hidden names are left out."""
    return sorted(file for file in folder.glob(f"*{ending}") if not file.name.startswith("."))


def numbered_names(split: str, count: int) -> tuple[str, ...]:
    """Names for images that have none: `test-00000`, `test-00001`, ..."""
    return tuple(f"{split}-{index:05d}" for index in range(count))


def numbered_classes(name: str, labels: Sequence[int]) -> tuple[str, ...]:
    """Names for classes that have none: "0" up to the largest label.

    Args:
        name: The data set, for the error.
        labels: The class indices that occur.

    Raises:
        UserError: A label is too large to be a class index.
    """
    largest = max(labels, default=0)
    if largest >= _MAX_CLASSES:
        raise UserError(f"{name} has the label {largest}; accepted: class indices from 0 to {_MAX_CLASSES - 1}")
    return tuple(str(index) for index in range(max(largest, 0) + 1))
