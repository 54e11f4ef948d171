"""A case to start from, wherever it lies: its YAML, its record, its folder, at a URL or in a pack."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from privbench.core import Record, UserError
from privbench.store.case_folder import repeatable
from privbench.store.layout import CASE, RECORD
from privbench.store.places import place_of

__all__ = ["config_at"]


@contextmanager
def config_at(place: str | None) -> Iterator[Path | None]:
    """A resolved case as a YAML file: the file itself, or one made of a record.

    Args:
        place: A `case.yaml`, a `record.json`, or a case's folder; on this machine, at a URL or in a pack.

    Raises:
        UserError: There is no such file, or it holds no case.
    """
    if place is None or not (_is_record(place) or "://" in place or ".jsonl.gz/" in place or Path(place).is_dir()):
        yield None if place is None else Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="privbench-") as folder:
        copy = Path(folder) / "case.yaml"
        copy.write_bytes(_case_of(place))
        yield copy


def _is_record(place: str) -> bool:
    return place.endswith(".json") and Path(place).is_file()


def _case_of(place: str) -> bytes:
    """The case that lies at a place, as YAML."""
    if _is_record(place):
        return repeatable(Path(place).parent, Record.load(Path(place))).case.to_yaml().encode()
    store, name = place_of(place.rstrip("/").removesuffix(f"/{CASE}").removesuffix(f"/{RECORD}"))
    if (content := store.read(f"{name}/{CASE}")) is not None:
        return content
    if (content := store.read(f"{name}/{RECORD}")) is None:
        raise UserError(f"there is no case at {place}; give the folder, {CASE} or {RECORD} of a case")
    return Record.parse(content, store / f"{name}/{RECORD}").case.to_yaml().encode()
