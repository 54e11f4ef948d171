"""Images in folders: torchvision's ImageFolder layout, a flat folder of images, or a single image file.

Files count by their ending; everything else (a README) and every hidden name is left alone. `classes.csv` numbers the classes.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from PIL import Image

from privbench.core.errors import UserError
from privbench.data.base import LABELS_ABSENT, SPLIT_NAMES, ImageSet, require_split
from privbench.data.class_indices import CLASSES_FILE, class_indices
from privbench.data.pixels import decode, first_line, left_out_text

__all__ = ["IMAGE_ENDINGS", "list_folder", "open_folder", "open_image"]

IMAGE_ENDINGS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of image files, in lower case; the case of a file's ending does not matter."""


def open_folder(path: Path, split: str = "test") -> ImageSet:
    """Opens a folder of images; nothing is decoded yet.

    Three layouts are read. Class subfolders with images: labels are those of `classes.csv` beside them, or ImageNet's where
    all are named by wnids, or else count the sorted names (`class_indices`). Images directly in the folder: every label is 0
    and the set is flagged. Subfolders that are all named as splits (train, val, validation, test): each holds one of the
    former two. A folder without splits is the split "test", so that nobody trains on what is then tested.

    Args:
        path: The folder.
        split: Which split.

    Raises:
        UserError: The folder is empty, unreadable or of a mixed layout, or has no such split.
    """
    subfolders, images = list_folder(path)
    splits = [folder.name for folder in subfolders]
    if splits and not images and set(splits) <= set(SPLIT_NAMES):
        require_split(str(path), split, splits)
        return _open_layout(path / split, _name(path), split)
    require_split(str(path), split, ["test"])
    return _open_layout(path, _name(path), split)


def open_image(path: Path, split: str = "test") -> ImageSet:
    """Opens a single image file as a set of one, with label 0 and a flag.

    Args:
        path: The file.
        split: Only "test" exists.

    Raises:
        UserError: Another split is asked for.
    """
    require_split(str(path), split, ["test"])
    return _unlabelled(_name(path), split, path.parent, [path])


def list_folder(path: Path) -> tuple[list[Path], list[Path]]:
    """The subfolders and the image files directly in a folder, each sorted by name; hidden names are left out.

    Raises:
        UserError: The folder cannot be read.
    """
    subfolders: list[Path] = []
    images: list[Path] = []
    try:
        for entry in sorted(path.iterdir()):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                subfolders.append(entry)
            # A dangling link is listed too: it fails by name when it is decoded instead of vanishing from the data.
            elif entry.suffix.lower() in IMAGE_ENDINGS:
                images.append(entry)
    except OSError as error:
        raise UserError(f"cannot read the folder {path} ({first_line(error)}); check its permissions") from None
    return subfolders, images


def _open_layout(path: Path, name: str, split: str) -> ImageSet:
    subfolders, images = list_folder(path)
    classes = {folder.name: list_folder(folder)[1] for folder in subfolders}
    beside = left_out_text(path, [file for folder in (path, *subfolders) for file in _others(folder)])
    if images and any(classes.values()):
        raise UserError(f"{path} holds both images and folders of images; keep either")
    if images:
        return replace(_unlabelled(name, split, path, images), left_out=beside)
    if not any(classes.values()):
        raise UserError(f"no images in {path}; accepted: {' '.join(IMAGE_ENDINGS)}, directly or in one folder per class")
    return replace(_labelled(name, split, path, classes), left_out=beside)


def _others(folder: Path) -> list[Path]:
    """Files that are neither images nor what may lie beside images."""
    return [
        file
        for file in folder.iterdir()
        if file.suffix.lower() not in IMAGE_ENDINGS
        and file.is_file()
        and not file.name.startswith((".", "README", "LICENSE", CLASSES_FILE))
    ]


def _unlabelled(name: str, split: str, root: Path, images: list[Path]) -> ImageSet:
    return ImageSet(
        name=name,
        split=split,
        class_names=("0",),
        labels=(0,) * len(images),
        names=_relative(root, images),
        read=_reader(images),
        nominal_labels=True,
        flags=(LABELS_ABSENT,),
    )


def _labelled(name: str, split: str, root: Path, classes: dict[str, list[Path]]) -> ImageSet:
    empty = [class_name for class_name, images in classes.items() if not images]
    if empty:
        raise UserError(f"the class folder {root / empty[0]} has no images; remove it, since class folders number the labels")
    images = [image for members in classes.values() for image in members]
    indices, class_names = class_indices(root, list(classes))
    labels = [indices[class_name] for class_name, members in classes.items() for _ in members]
    return ImageSet(
        name=name,
        split=split,
        class_names=tuple(map(_printable, class_names)),
        labels=tuple(labels),
        names=_relative(root, images),
        read=_reader(images),
    )


def _reader(images: list[Path]) -> Callable[[int], Image.Image]:
    def read(index: int) -> Image.Image:
        return decode(images[index], _printable(str(images[index])))

    return read


def _relative(root: Path, images: Iterable[Path]) -> tuple[str, ...]:
    return tuple(_printable(image.relative_to(root).as_posix()) for image in images)


def _name(path: Path) -> str:
    return _printable(path.resolve().name)


def _printable(text: str) -> str:
    """A file name as text that can be printed and stored, even where its bytes are no valid UTF-8."""
    return os.fsencode(text).decode("utf-8", "replace")
