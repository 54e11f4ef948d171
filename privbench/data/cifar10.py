"""CIFAR-10 (Krizhevsky, 2009), downloaded once by torchvision.

On a machine without network the hub's parquet files serve as well, in the folder `cifar10` of the data folder.
"""

import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from privbench.core.errors import UserError
from privbench.data.base import ImageSet, data_folder, files_ending, numbered_names, require_split
from privbench.data.parquet import open_parquet
from privbench.data.pixels import first_line

__all__ = ["CIFAR10_CLASSES", "open_cifar10"]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def open_cifar10(split: str = "test", *, root: Path | None = None) -> ImageSet:
    """Opens CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels, in the official order.

    Args:
        split: "train" or "test".
        root: The data folder; None: the environment variable PRIVBENCH_DATA, else ~/.cache/privbench.

    Raises:
        UserError: Another split is asked for, or the data is neither there nor can be downloaded.
    """
    require_split("cifar10", split, ["train", "test"])
    folder = data_folder(root)
    if files_ending(folder / "cifar10", ".parquet"):
        return open_parquet(folder / "cifar10", split)
    data = _torchvision_data(folder, train=split == "train")
    pixels = data.data

    def read(index: int) -> Image.Image:
        return Image.fromarray(pixels[index])

    return ImageSet(
        name="cifar10",
        split=split,
        class_names=CIFAR10_CLASSES,
        labels=tuple(data.targets),
        names=numbered_names(split, len(pixels)),
        read=read,
    )


def _torchvision_data(folder: Path, *, train: bool) -> Any:
    from torchvision.datasets import CIFAR10  # importing torchvision takes a second

    try:
        with warnings.catch_warnings():
            # The official files were pickled by an old NumPy (align=0 for False), which NumPy 2.4.0 warns of.
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            return CIFAR10(str(folder), train=train, download=True)
    except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
        raise UserError(
            f"cannot download CIFAR-10 into {folder} ({first_line(error)}); "
            f"put its parquet files into {folder / 'cifar10'}, or give them: --data FOLDER_WITH_PARQUET"
        ) from None
