"""Private images for attacks and sets for training: embedded photographs, CIFAR-10, and the user's own files."""

from typing import TYPE_CHECKING

from privbench.core.lazy import imported_on_use

if TYPE_CHECKING:
    from privbench.data.base import ImageSet, Opener
    from privbench.data.selection import select
    from privbench.data.sources import open_images

__all__ = ["BUILT_IN", "ImageSet", "Opener", "open_images", "select"]

BUILT_IN = {
    "cifar10": "privbench.data.cifar10:open_cifar10",
    "photos": "privbench.data.photos:open_photos",
}
"""The built-in data sets: each target is an `Opener`."""

_NAMES = {
    "base": (
        "ImageSet",
        "Opener",
    ),
    "selection": ("select",),
    "sources": ("open_images",),
}
"""Module to what it holds; a test compares it with the imports above."""

if not TYPE_CHECKING:
    __getattr__, __dir__ = imported_on_use(__name__, _NAMES)
