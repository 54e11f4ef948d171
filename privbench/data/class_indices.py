"""Which class a folder of images stands for: by `classes.csv` beside the folders, by ImageNet's names, or by sorting.

A model's logits have an order. ImageNet's 1000 classes stand in the order of their WordNet names (wnids), so that `n02102040`
is class 217 also where the other folders are not there.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from privbench.core.errors import UserError

__all__ = ["CLASSES_FILE", "class_indices"]

CLASSES_FILE = "classes.csv"
"""Beside the class folders: one row a folder, its name and its class index."""

_NAME = ("wnid", "folder", "name", "class")
_INDEX = ("class_index", "index", "label")
_WNID = re.compile(r"n\d{8}")
_LARGEST = 100_000


def class_indices(root: Path, folders: Sequence[str]) -> tuple[dict[str, int], tuple[str, ...]]:
    """The class of each folder of images, and the names of all classes.

    Args:
        root: The folder that holds them; a `classes.csv` in it decides.
        folders: Their names, sorted.

    Returns:
        Folder to class, and one name for each class: that of the folder, or the number where it has none here.

    Raises:
        UserError: `classes.csv` cannot be read, lacks a folder, or has an index that is none.
    """
    imagenet = _imagenet() if any(_WNID.fullmatch(folder) for folder in folders) else {}
    if (root / CLASSES_FILE).is_file():
        chosen = _of_file(root / CLASSES_FILE)
        absent = [folder for folder in folders if folder not in chosen]
        if absent:
            raise UserError(f"{root / CLASSES_FILE} has no row for the folder {absent[0]}; add it, or remove the file")
        same = all(imagenet.get(folder) == index for folder, index in chosen.items())
        return {folder: chosen[folder] for folder in folders}, tuple(imagenet) if same else _names(chosen)
    if folders and imagenet.keys() >= set(folders):
        return {folder: imagenet[folder] for folder in folders}, tuple(imagenet)
    return {folder: index for index, folder in enumerate(folders)}, tuple(folders)


def _of_file(path: Path) -> dict[str, int]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path} ({error}); accepted: a table with the columns wnid and class_index") from None
    columns = set(rows[0]) if rows else set()
    name, index = (next((column for column in names if column in columns), None) for names in (_NAME, _INDEX))
    if name is None or index is None:
        raise UserError(
            f"{path} needs a column for the folder ({', '.join(_NAME)}) and one for the class ({', '.join(_INDEX)}); "
            f"it has {', '.join(sorted(map(str, columns))) or 'none'}"
        )
    chosen: dict[str, int] = {}
    for row in rows:
        text = (row[index] or "").strip()
        if not (text.isascii() and text.isdigit() and int(text[:9]) < _LARGEST):
            raise UserError(f"{path}: the class of {row[name]} is '{text[:40]}'; accepted: a whole number from 0")
        chosen[(row[name] or "").strip()] = int(text)
    return chosen


def _names(chosen: Mapping[str, int]) -> tuple[str, ...]:
    by_index = {index: name for name, index in chosen.items()}
    return tuple(by_index.get(index, str(index)) for index in range(max(by_index) + 1))


@cache
def _imagenet() -> dict[str, int]:
    """ImageNet-1k's wnids in order, from the list that timm carries; read without importing timm."""
    spec = find_spec("timm")
    folder = Path(spec.origin).parent if spec is not None and spec.origin else Path()
    try:
        lines = (folder / "data" / "_info" / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
    except OSError:
        return {}
    return {wnid: index for index, wnid in enumerate(lines)}
