"""A pack: the records of a study in one file of compressed JSON lines, to be carried by a clone, mailed or archived.

The first line says which version of the format this is. Every other line is one file, by its name in the packed folder:
JSON as it is, text as text, pictures in base64. A record has the whole case in it, so `case.yaml` is left out, and so is what
only the machine that computed a case can use.
"""

import base64
import binascii
import gzip
import io
import json
import re
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from privbench.core import Case, FailedCase, Record, StoreError, UserError, UtilityReport
from privbench.core.inputs import LARGEST_FILE, read_input
from privbench.store.base import Store, is_table_row, parsed
from privbench.store.files import atomic_write, refuse_folder
from privbench.store.layout import COMPARISON, FAILURE, MEMBERS, RECONSTRUCTIONS, RECORD, TRACE

__all__ = ["SUFFIX", "PackStore", "pack", "split_address"]

SUFFIX = ".jsonl.gz"
"""How the names of packs end."""
_SCHEMA = 1
_HEADER = "privbench_pack"
_LARGEST = 1 << 30
"""Bytes of a pack once it is unpacked: more is a bomb."""
_HARMLESS, _MOST_PACKED = 1 << 26, 200
"""So many come out of any pack, and at most so many for each byte of a larger one; those of `results/` have 5."""
_PICTURES = (".png", ".safetensors")
"""Endings of files that are packed as base64."""


def split_address(text: str) -> tuple[Path, str] | None:
    """A pack and the name in it, of an address such as `front.jsonl.gz/CASE`; None where it names no pack."""
    parts = Path(text).parts
    for place, part in enumerate(parts):
        if part.endswith(SUFFIX) and not Path(*parts[: place + 1]).is_dir():
            return Path(*parts[: place + 1]), "/".join(parts[place + 1 :])
    return None


@dataclass(frozen=True)
class PackStore:
    """A packed study; cases are read from it, and only what is made of them (calibrations, identifications) is written to it.

    Attributes:
        path: The file.
    """

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> str:
        return f"{self}/{name}"

    @property
    def working(self) -> Path:
        """A pack has none.

        Raises:
            StoreError: Always.
        """
        raise StoreError(f"{self} is a pack, which cases are only read from; choose a folder or URL as --output")

    def check(self) -> None:
        """Refuses to be written; as of `Store`."""
        _ = self.working

    def find(self, case: Case) -> Record | FailedCase | None:
        """As of `Store`."""
        return parsed(self, case)

    def list(self) -> Sequence[str]:
        """As of `Store`."""
        return sorted(self._lines())

    def read(self, name: str) -> bytes | None:
        """As of `Store`."""
        line = self._lines().get(name)
        return None if line is None else _unpacked(line, self.path)

    def is_running(self, name: str) -> bool:
        """As of `Store`: never."""
        return False

    @contextmanager
    def open(self, below: str = "", *, everything: bool = True) -> Iterator[Path]:
        """The files unpacked into a folder that is gone afterwards; as of `Store`."""
        with tempfile.TemporaryDirectory(prefix="privbench-") as copy:
            self.unpack(Path(copy), below, everything=everything)
            try:
                yield Path(copy)
            except UserError as error:
                raise type(error)(str(error).replace(copy, str(self))) from None

    def unpack(self, folder: Path, below: str = "", *, everything: bool = True) -> None:
        """Writes the files of a pack into a folder; arguments as of `Store.open`.

        Raises:
            UserError: It is no pack, or a damaged one.
        """
        for name, line in self._lines().items():
            if name.startswith(f"{below}/" if below else "") and (everything or is_table_row(name)):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(_unpacked(line, self.path))

    def publish(self, case: Case, *, replace: bool = False) -> None:
        """Nothing is computed in a pack; as of `Store`."""
        self.check()

    def write(self, files: Mapping[str, bytes]) -> None:
        """Writes the pack anew with these files in it; as of `Store`."""
        lines = {**self._lines(), **{name: _packed(name, content) for name, content in files.items()}}
        _write(self.path, lines)

    def forget_failure(self, case: Case) -> None:
        """As of `Store`."""
        self.check()

    def _lines(self) -> Mapping[str, str]:
        try:
            about = self.path.stat()
            return _lines(self.path, about.st_mtime_ns, about.st_size)
        except FileNotFoundError:
            raise UserError(f"there is no pack {self}; `privbench pack FOLDER -o {self.path.name}` makes one") from None
        except OSError as error:
            raise UserError(f"cannot read the pack {self}: {error.strerror or error}") from None


@lru_cache(maxsize=16)
def _lines(path: Path, _changed: int, _size: int) -> Mapping[str, str]:
    """The lines of a pack by the names of the files that they hold; read once as long as the file stays the same."""
    damaged = f"{path} is not a pack of schema {_SCHEMA}, or a damaged one"
    found: dict[str, str] = {}
    total = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
            header = json.loads(file.readline(1 << 16))
            if not isinstance(header, dict) or header.get(_HEADER) != _SCHEMA:
                raise UserError(f"{damaged}: its first line does not say so")
            largest = min(_LARGEST, max(_HARMLESS, _MOST_PACKED * path.stat().st_size))
            while line := file.readline(largest):
                total += len(line)
                if total >= largest:
                    raise UserError(f"{damaged}: more than {largest >> 20} MiB come out of it")
                name = _name_of(line)
                if name in found or not _is_inside(name):
                    raise UserError(f"{damaged}: the name '{name[:200]}'")
                found[name] = line
    except UserError:
        raise
    except (EOFError, gzip.BadGzipFile, zlib.error, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{damaged}: {type(error).__name__}") from None
    if header.get("files") != len(found):
        raise UserError(f"{damaged}: {len(found)} of {header.get('files')} files")
    return found


def _name_of(line: str) -> str:
    """The name at the begin of a line, without reading what comes after it."""
    begun = re.match(r'\{"name":\s*', line)
    name, _ = json.JSONDecoder().raw_decode(line, begun.end()) if begun else (None, 0)
    if not isinstance(name, str):
        raise ValueError("no name")
    return name


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and path.as_posix() == name


def _packed(name: str, content: bytes) -> str:
    """One file as a line."""
    if name.endswith(".json"):
        kind, value = "json", json.loads(content)
    elif name.endswith(_PICTURES):
        kind, value = "base64", base64.b64encode(content).decode()
    else:
        kind, value = "text", content.decode()
    return json.dumps({"name": name, kind: value}, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def _unpacked(line: str, path: Path) -> bytes:
    """The file that a line holds."""
    try:
        content: dict[str, Any] = json.loads(line)
        if "json" in content:
            return (json.dumps(content["json"], indent=2, ensure_ascii=False) + "\n").encode()
        if "base64" in content:
            return base64.b64decode(content["base64"], validate=True)
        return str(content["text"]).encode()
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        raise UserError(f"{path} is a damaged pack: the file {_name_of(line)[:200]}") from None


def _write(path: Path, lines: Mapping[str, str]) -> None:
    buffer = io.BytesIO()
    # No time and no file name: equal files give equal bytes.
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=9, mtime=0) as file:
        file.write((json.dumps({_HEADER: _SCHEMA, "files": len(lines)}) + "\n").encode())
        for name in sorted(lines):
            file.write(lines[name].encode())
    atomic_write(path, buffer.getvalue())


def pack(source: Store, target: Path, *, pictures: bool = True, traces: bool = True) -> int:
    """Packs the results of a store into one file, whole or not at all; equal results give equal bytes.

    Args:
        source: A folder, a URL or another pack.
        target: The file; its name ends in `.jsonl.gz`.
        pictures: Comparison pictures and reconstructions too.
        traces: Losses in the course of an attack too.

    Returns:
        How many finished and failed cases are in it.

    Raises:
        UserError: Nothing is there to be packed, a record cannot be read, or the file cannot be written.
    """
    if not target.name.endswith(SUFFIX):
        raise UserError(f"cannot tell what {target} is to be; the names of packs end in {SUFFIX}")
    refuse_folder(target)
    with source.open() as folder:
        found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        names = {name for name in found if _belongs(name, pictures=pictures, traces=traces)}
        lines = {name: _packed(name, _content(name, found[name], names)) for name in sorted(names)}
    cases = sum(PurePosixPath(name).name in {RECORD, FAILURE} and MEMBERS not in name.split("/") for name in names)
    if not cases:
        raise UserError(f"there is no {RECORD} below {source}; give a folder that `privbench run --output` wrote to")
    _write(target, lines)
    return cases


def _belongs(name: str, *, pictures: bool, traces: bool) -> bool:
    """Whether a file goes into a pack."""
    parts = PurePosixPath(name).parts
    if any(part.startswith(".") for part in parts):
        return False
    if MEMBERS in parts:
        return parts[-1] == RECORD
    if name.endswith(".png"):
        return pictures and (parts[-1] == COMPARISON or RECONSTRUCTIONS in parts)
    return (traces and parts[-1] == TRACE) or name.endswith((".json", ".safetensors"))


def _content(name: str, path: Path, packed: set[str]) -> bytes:
    """What is packed of a file: data set and weights by name alone, and of a record the checksums of what goes with it."""
    if path.name == RECORD:
        record = Record.load(path)
        folder = name.removesuffix(RECORD)
        files = {file: known for file, known in record.files.items() if f"{folder}{file}" in packed}
        return record.model_copy(update={"case": record.case.without_paths(), "files": files}).to_json().encode()
    if path.name == FAILURE:
        failure = FailedCase.load(path)
        return failure.model_copy(update={"case": failure.case.without_paths()}).to_json().encode()
    if path.name.startswith("utility--") and path.name.endswith(".json"):
        # One that was not written by this version may have paths.
        utility = UtilityReport.load(path)
        return utility.model_copy(update={"victim": utility.victim.without_paths()}).to_json().encode()
    return read_input(path, "file", LARGEST_FILE)
