"""A URL as a store: s3://, gs://, sftp://, file:// and whatever else fsspec has a driver for.

Nothing is computed there. A case is computed in a working folder of this machine and published when it has ended: all files
first, the record last, so that it is finished at the URL exactly when its record is there and can be read. What is published
leaves the working folder. Who computes which case is for `--shard` or Ray to say; where two machines compute one case all the
same, results are equal and the first record stays.
"""

import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec.core import url_to_fs

from privbench.core import Case, FailedCase, Record, StoreError, UserError
from privbench.store.base import is_table_row, parsed
from privbench.store.case_folder import CaseFolder, is_locked
from privbench.store.files import check_output
from privbench.store.layout import CASE, FAILURE, LOCK, RECORD, TEMPORARY, WORK

__all__ = ["UrlStore"]

_FOLDERS = {"file", "local", "sftp", "ssh"}
"""Protocols with folders that must be made, and with a rename that replaces; others write an object whole or not at all."""
_SLICE = 200
"""Files that are read in one request to the driver."""


@dataclass(frozen=True)
class UrlStore:
    """The folder of all cases at a URL.

    Credentials and addresses are fsspec's matter: the usual environment variables of each driver, and `~/.config/fsspec`.

    Attributes:
        url: Of the folder.
        scratch: Working folder; None: one for this URL in the user's cache, on every machine its own.
    """

    url: str
    scratch: Path | None = None

    def __str__(self) -> str:
        """The URL, without a password."""
        return re.sub(r"://([^/@:]*):[^/@]*@", r"://\1:***@", self.url.rstrip("/"))

    def __truediv__(self, name: str) -> str:
        return f"{self}/{name}"

    @property
    def working(self) -> Path:
        """The working folder on this machine."""
        if self.scratch is not None:
            return self.scratch
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return base / "privbench" / f"url-{hashlib.sha256(self.url.rstrip('/').encode()).hexdigest()[:12]}"

    # Reaching the URL

    def _connect(self) -> tuple[Any, str, set[str]]:
        """The driver of this thread, the folder as the driver calls it, and the driver's protocols."""
        protocol = self.url.partition("://")[0].rpartition("::")[2]
        try:
            system, root = url_to_fs(self.url)
        except ImportError as error:
            raise StoreError(f"{self}: the driver of {protocol}:// is not installed ({_line(error)})") from None
        except ValueError as error:
            raise StoreError(
                f"{self}: {_line(error)}; accepted: s3://, gs://, sftp://, file:// and what else fsspec knows"
            ) from None
        except Exception as error:
            raise StoreError(f"cannot reach {self}: {_line(error)}; check the URL and your access") from None
        protocols = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
        return system, str(root).rstrip("/"), protocols

    @contextmanager
    def _reaching(self, action: str) -> Iterator[tuple[Any, str, set[str]]]:
        """Around everything that goes over the network; drivers have errors of many kinds."""
        opened = self._connect()
        try:
            yield opened
        except UserError:
            raise
        except Exception as error:
            raise StoreError(f"cannot {action} {self}: {_line(error)}; check the URL and your access") from None

    def check(self) -> None:
        """Refuses a URL that has no driver, cannot be reached or is a file, and a working folder that cannot be written.

        Raises:
            StoreError: It is one of these.
        """
        check_output(self.working)
        self._require_folder()

    def _require_folder(self) -> None:
        with self._reaching("read") as (system, root, _):
            if system.isfile(root):
                raise StoreError(f"{self} is a file; give the URL of a folder")

    # Reading

    def find(self, case: Case) -> Record | FailedCase | None:
        """As of `Store`."""
        return parsed(self, case)

    def read(self, name: str) -> bytes | None:
        """As of `Store`.

        Raises:
            StoreError: The URL cannot be read.
        """
        with self._reaching("read") as (system, root, _):
            try:
                return bytes(system.cat_file(f"{root}/{name}"))
            except FileNotFoundError:
                return None

    def list(self) -> Sequence[str]:
        """As of `Store`.

        Raises:
            StoreError: The URL cannot be read, or is a file.
        """
        return self._names("")

    def _names(self, below: str) -> Sequence[str]:
        self._require_folder()
        with self._reaching("read") as (system, root, _):
            system.invalidate_cache()
            found = (str(path)[len(root) :].lstrip("/") for path in system.find(f"{root}/{below}".rstrip("/")))
            return sorted(name for name in found if name and _is_inside(name) and TEMPORARY not in name)

    @contextmanager
    def open(self, below: str = "", *, everything: bool = True) -> Iterator[Path]:
        """A copy of what lies there; arguments as of `Store`.

        Raises:
            StoreError: The URL cannot be read, or is a file.
        """
        with tempfile.TemporaryDirectory(prefix="privbench-") as copy:
            names = [name for name in self._names(below) if everything or is_table_row(name)]
            with self._reaching("read") as (system, root, _):
                for content in _contents(system, root, names):
                    for name, data in content.items():
                        target = Path(copy, name)
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.write_bytes(data)
            try:
                yield Path(copy)
            except UserError as error:
                raise type(error)(str(error).replace(copy, str(self))) from None

    def is_running(self, name: str) -> bool:
        """As of `Store`."""
        return is_locked(self.working / name)

    # Writing

    def write(self, files: Mapping[str, bytes]) -> None:
        """As of `Store`; whole or not at all as far as what is behind the URL can do that.

        Raises:
            StoreError: The URL cannot be written.
        """
        with self._reaching("write to") as (system, root, protocols):
            if not protocols & _FOLDERS:
                system.pipe({f"{root}/{name}": content for name, content in files.items()})
                return
            for name, content in files.items():
                path = f"{root}/{name}"
                temporary = f"{path.rpartition('/')[0]}/{TEMPORARY}{uuid.uuid4().hex}"
                system.makedirs(path.rpartition("/")[0], exist_ok=True)
                try:
                    system.pipe_file(temporary, content)
                    system.mv(temporary, path)
                except BaseException:
                    with suppress(Exception):
                        system.rm_file(temporary)
                    raise

    def _remove(self, *names: str) -> None:
        with self._reaching("clear") as (system, root, _):
            for name in names:
                with suppress(FileNotFoundError):
                    system.rm_file(f"{root}/{name}")

    def publish(self, case: Case, *, replace: bool = False) -> None:
        """As of `Store`; a finished case leaves the working folder, what was begun of a failed one stays there.

        Raises:
            StoreError: The URL cannot be written.
        """
        folder = CaseFolder(self.working, case)
        if folder.record() is None:
            if folder.failure() is not None:
                self._upload(folder, (CASE, FAILURE))
                folder.forget_failure()
            return
        if replace:
            self._remove(f"{case.folder}/{RECORD}")
        if replace or not isinstance(self.find(case), Record):
            names = [name for name in _files(folder.path) if name != RECORD and not _is_kept_here(name)]
            self._upload(folder, names)
            self._upload(folder, [RECORD])
        self._remove(f"{case.folder}/{FAILURE}", *self._leftovers(case.folder))
        shutil.rmtree(folder.path, ignore_errors=True)

    def _upload(self, folder: CaseFolder, names: Sequence[str]) -> None:
        present = [name for name in names if (folder.path / name).is_file()]
        self.write({f"{folder.case.folder}/{name}": (folder.path / name).read_bytes() for name in present})

    def _leftovers(self, folder: str) -> Sequence[str]:
        """Temporary files of machines that were killed while they wrote."""
        with self._reaching("read") as (system, root, protocols):
            if not protocols & _FOLDERS:
                return []
            names = (PurePosixPath(path).name for path in system.ls(f"{root}/{folder}", detail=False))
            return [f"{folder}/{name}" for name in names if name.startswith(TEMPORARY)]

    def forget_failure(self, case: Case) -> None:
        """As of `Store`."""
        self._remove(f"{case.folder}/{FAILURE}")


def _contents(system: Any, root: str, names: Sequence[str]) -> Iterator[dict[str, bytes]]:
    """Files by name, many at a time; those that are gone since they were listed are left out."""
    for start in range(0, len(names), _SLICE):
        paths = {f"{root}/{name}": name for name in names[start : start + _SLICE]}
        # A driver would read some characters as a pattern.
        plain = [path for path in paths if not set(path) & set("*?[")]
        read: dict[str, Any] = system.cat(plain, on_error="return") if plain else {}
        for path in paths.keys() - set(plain):
            with suppress(FileNotFoundError):
                read[path] = system.cat_file(path)
        content = {}
        for path, data in read.items():
            if isinstance(data, FileNotFoundError):
                continue
            if isinstance(data, BaseException):
                raise data
            content[paths[path]] = data
        yield content


def _line(error: BaseException) -> str:
    """An error as one short line."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split())[:200] or type(error).__name__


def _is_inside(name: str) -> bool:
    """Whether a name means something below a folder."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _files(folder: Path) -> list[str]:
    """All files below a folder, by their names in it, with slashes."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _is_kept_here(name: str) -> bool:
    """Whether a file of a case means something to this machine alone."""
    parts = PurePosixPath(name).parts
    return WORK in parts or parts[-1] == LOCK or parts[-1].startswith(TEMPORARY)
