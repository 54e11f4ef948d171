"""The embedded private images: colour photographs that scikit-image's wheel carries, so that a first run downloads nothing.

The files are read from the installed package directly. `skimage.data` is not imported: it reaches for the network, through
pooch, for whatever it does not find. `skimage.data` states the origin and the terms of each photograph.
"""

from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from PIL import Image

from privbench.core.errors import UserError
from privbench.data.base import ImageSet, require_split
from privbench.data.cifar10 import CIFAR10_CLASSES
from privbench.data.pixels import decode

__all__ = ["open_photos"]


@dataclass(frozen=True)
class _Photo:
    name: str
    file: str
    label: int


# The embedded victim knows CIFAR-10's classes. Where one comes near the content it is taken (cat, airplane, automobile); the
# others are a fixed choice. All differ, so that no batch of photos has duplicate labels by accident.
_PHOTOS = (
    _Photo("astronaut", "astronaut.png", 5),
    _Photo("chelsea", "chelsea.png", 3),
    _Photo("coffee", "coffee.png", 8),
    _Photo("rocket", "rocket.jpg", 0),
    _Photo("motorcycle", "motorcycle_left.png", 1),
    _Photo("ihc", "ihc.png", 6),
    _Photo("retina", "retina.jpg", 4),
    _Photo("hubble", "hubble_deep_field.jpg", 2),
)


def open_photos(split: str = "test", *, root: Path | None = None) -> ImageSet:  # noqa: ARG001 - an opener has a root
    """Opens the embedded photographs: 8 images, the shorter side from 300 to 1411 pixels, labels all different.

    Labels are nominal: indices into CIFAR-10's classes, and `ImageSet.for_classes` reduces them for a model with fewer.

    Args:
        split: Only "test" exists.
        root: Not used; nothing is downloaded.

    Raises:
        UserError: Another split is asked for.
    """
    require_split("photos", split, ["test"])
    return ImageSet(
        name="photos",
        split=split,
        class_names=CIFAR10_CLASSES,
        labels=tuple(photo.label for photo in _PHOTOS),
        names=tuple(photo.name for photo in _PHOTOS),
        read=_read,
        nominal_labels=True,
    )


def _read(index: int) -> Image.Image:
    photo = _PHOTOS[index]
    try:
        content = files("skimage").joinpath("data", photo.file).read_bytes()
    except OSError:
        found = version("scikit-image")
        raise UserError(f"scikit-image {found} is installed without its file {photo.file}; install it again") from None
    return decode(content, photo.name)
