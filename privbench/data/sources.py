"""From what a user names with `--data` to an `ImageSet`: a registered data set, or a path whose layout is recognised."""

from collections.abc import Callable
from pathlib import Path

from privbench.core.errors import UserError, unknown_name
from privbench.core.registry import DATASETS
from privbench.data.base import ImageSet, Opener, data_folder, files_ending
from privbench.data.folder import IMAGE_ENDINGS, list_folder, open_folder, open_image
from privbench.data.npz import open_npz
from privbench.data.parquet import open_parquet
from privbench.data.pixels import first_line

__all__ = ["open_images"]

_BY_ENDING: dict[str, Callable[[Path, str], ImageSet]] = {
    ".parquet": open_parquet,
    ".npz": open_npz,
    **dict.fromkeys(IMAGE_ENDINGS, open_image),
}
_PATHS = "a parquet file or a folder of them, a .npz archive, a folder of images (ImageFolder or flat), an image file"


def open_images(source: str, split: str = "test", *, root: Path | None = None) -> ImageSet:
    """Opens private images or a training set.

    A registered name goes before a path of the same spelling; write `./photos` for a folder called photos. Of a name that is
    neither, such as a record has of the data set it was made from, the files are looked for in the data folder.

    Args:
        source: A registered data set or a path: a parquet file or a folder of them, a `.npz` archive, a folder of images
            (ImageFolder or flat), or an image file.
        split: Which split.
        root: The data folder; None: the environment variable PRIVBENCH_DATA, else ~/.cache/privbench.

    Raises:
        UserError: There is no such data set, path or split, or its layout is not recognised.
    """
    if source in DATASETS.names():
        opener: Opener = DATASETS.get(source)
        return opener(split, root=root)
    path = _existing(source, data_folder(root))
    return _folder_opener(path)(path, split) if path.is_dir() else _file_opener(path)(path, split)


def _existing(source: str, folder: Path) -> Path:
    if not source.strip():
        raise unknown_name("dataset", source, DATASETS.names())
    try:
        path = Path(source).expanduser()
        path.stat()
    except FileNotFoundError:
        if "/" not in source and (folder / source).exists():
            return folder / source
        if "/" in source or Path(source).suffix:
            raise UserError(f"no such file or folder: {source}; accepted: {_PATHS}, or a name: {_names()}") from None
        raise UserError(
            f"{unknown_name('dataset', source, DATASETS.names())}; or a path: {_PATHS}. A data set of this name belongs in "
            f"{folder / source}"
        ) from None
    # RuntimeError: ~user of nobody. ValueError: a zero byte.
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"cannot open {source!r} ({first_line(error)}); check the path and its permissions") from None
    return path


def _names() -> str:
    return ", ".join(DATASETS.names())


def _file_opener(path: Path) -> Callable[[Path, str], ImageSet]:
    if not path.is_file():
        raise UserError(f"{path} is no regular file (a pipe or a device); accepted: {_PATHS}")
    opener = _BY_ENDING.get(path.suffix.lower())
    if opener is None:
        raise UserError(f"cannot tell what {path} holds by its ending; accepted: {', '.join(sorted(_BY_ENDING))}")
    return opener


def _folder_opener(path: Path) -> Callable[[Path, str], ImageSet]:
    subfolders, images = list_folder(path)
    # Images go first: many an image folder has a table of its files beside them.
    if not images and not any(list_folder(folder)[1] for folder in subfolders):
        for ending in (".parquet", ".npz"):
            if files_ending(path, ending):
                return _BY_ENDING[ending]
    return open_folder
