"""Images in parquet files as the model hubs lay them out: `train-00000-of-00002.parquet`, `test-00000-of-00001.parquet`.

An image is a cell of encoded bytes, or of `{bytes, path}`; a label is an integer. Only the labels are read on opening; image
bytes are read one row group at a time, when they are asked for.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from privbench.core.errors import UserError
from privbench.data.base import ImageSet, file_split, files_ending, numbered_classes, numbered_names, require_split
from privbench.data.pixels import decode, first_line

__all__ = ["open_parquet"]

_IMAGE_COLUMNS = ("img", "image")
_LABEL_COLUMNS = ("label", "fine_label")
_SHARD = re.compile(r"(?P<split>.+?)-(?P<number>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]+)?")


@dataclass(frozen=True)
class _Shard:
    """What a file's name says about its place."""

    path: Path
    split: str
    number: int
    count: int


@dataclass(frozen=True)
class _Content:
    """What a file holds, image bytes aside."""

    path: Path
    image_column: str
    labels: list[int]
    class_names: tuple[str, ...] | None
    group_sizes: list[int]


def open_parquet(path: Path, split: str = "test") -> ImageSet:
    """Opens a parquet file, or the shards of one split in a folder, in their order.

    A single file is the split that its name says (`train-00000-of-00002.parquet`, `train.parquet`), else "test".

    Args:
        path: The file or the folder.
        split: Which split.

    Raises:
        UserError: There is no such split, a shard is missing, or a file is damaged or not of that form.
    """
    if path.is_dir():
        shards = [_shard(file, file.stem) for file in files_ending(path, ".parquet")]
        require_split(str(path), split, {shard.split for shard in shards})
        files = _complete([shard for shard in shards if shard.split == split])
    else:
        require_split(str(path), split, [_shard(path, file_split(path.stem)).split])
        files = [path]
    contents = [_content(file) for file in files]
    labels = tuple(label for content in contents for label in content.labels)
    names = numbered_names(split, len(labels))
    cell = _cell_reader(contents)

    def read(index: int) -> Image.Image:
        encoded = cell(index)
        if encoded is None:
            raise UserError(f"{path}: image {names[index]} has no bytes; accepted: encoded images within the file")
        return decode(encoded, f"{names[index]} of {path}")

    return ImageSet(
        name=path.resolve().name,
        split=split,
        class_names=contents[0].class_names or numbered_classes(str(path), labels),
        labels=labels,
        names=names,
        read=read,
    )


def _shard(path: Path, otherwise: str) -> _Shard:
    match = _SHARD.fullmatch(path.stem)
    if match is None:
        return _Shard(path, otherwise, 0, 1)
    return _Shard(path, match["split"], int(match["number"]), int(match["count"]))


def _complete(shards: list[_Shard]) -> list[Path]:
    """The files of one split in order; each shard must be there exactly once."""
    ordered = sorted(shards, key=lambda shard: shard.number)
    count = ordered[0].count
    if [(shard.number, shard.count) for shard in ordered] != [(number, count) for number in range(count)]:
        found = ", ".join(shard.path.name for shard in ordered)
        raise UserError(f"the shards of split '{ordered[0].split}' are not complete: {found}; each is needed exactly once")
    return [shard.path for shard in ordered]


def _content(path: Path) -> _Content:
    import pyarrow as pa  # importing pyarrow takes a third of a second
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            image_column = _column(path, schema.names, _IMAGE_COLUMNS, "image")
            label_column = _column(path, schema.names, _LABEL_COLUMNS, "label")
            _require_types(path, schema.field(image_column), schema.field(label_column))
            labels = file.read(columns=[label_column]).column(label_column)
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read the parquet file {path} ({first_line(error)}); get it again") from None
    if labels.null_count:
        raise UserError(f"{path}: {labels.null_count} images have no label; accepted: an integer for each image")
    return _Content(path, image_column, labels.to_pylist(), _class_names(schema.metadata, label_column), sizes)


def _column(path: Path, names: Sequence[str], accepted: Sequence[str], kind: str) -> str:
    for name in accepted:
        if name in names:
            return name
    raise UserError(f"{path} has no {kind} column but {', '.join(names)}; accepted: {' or '.join(accepted)}")


def _require_types(path: Path, image: Any, label: Any) -> None:
    import pyarrow as pa

    cell = image.type
    if pa.types.is_struct(cell) and cell.get_field_index("bytes") >= 0:
        cell = cell.field("bytes").type
    if not (pa.types.is_binary(cell) or pa.types.is_large_binary(cell)):
        raise UserError(f"{path}: column {image.name} has the type {image.type}; accepted: bytes, or a struct with bytes")
    if not pa.types.is_integer(label.type):
        raise UserError(f"{path}: column {label.name} has the type {label.type}; accepted: integers")


def _class_names(metadata: dict[bytes, bytes] | None, label_column: str) -> tuple[str, ...] | None:
    """The class names that the hub writes into a file's schema, None where it did not."""
    try:
        described = json.loads((metadata or {})[b"huggingface"])
        return tuple(str(name) for name in described["info"]["features"][label_column]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _cell_reader(contents: list[_Content]) -> Callable[[int], bytes | None]:
    """Gives the encoded image at a position, None for an empty cell."""
    groups = [(content, number) for content in contents for number in range(len(content.group_sizes))]
    starts = [0]
    for content, number in groups:
        starts.append(starts[-1] + content.group_sizes[number])

    # One row group is kept: a training set is read in order, and a hub's row group of photographs is some 100 MB.
    @lru_cache(maxsize=1)
    def cells(group: int) -> Any:
        content, number = groups[group]
        return _encoded(content, number)

    def cell(index: int) -> bytes | None:
        group = bisect_right(starts, index) - 1
        value: bytes | None = cells(group)[index - starts[group]].as_py()
        return value

    return cell


def _encoded(content: _Content, group: int) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(content.path) as file:
            column = file.read_row_group(group, columns=[content.image_column]).column(content.image_column)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read the parquet file {content.path} ({first_line(error)}); get it again") from None
    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
