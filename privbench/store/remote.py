"""A results folder behind a URL: s3://, gs://, sftp://, file:// and whatever else fsspec has a driver for.

A case is computed in a working folder on this machine, where `store.py` keeps its lock, its checkpoints and its atomic files.
It is published when it has ended: all files first, the record last, so that it is finished at the URL exactly when its record
is there and can be read. What is published leaves the working folder, so that what lies there is not at the URL yet.

A claim beside the case keeps other machines out while it is computed; it ends by itself when nobody renews it. Where a store
creates no file exclusively, or where a machine stalls for longer than that, two machines may compute one case: results are
equal, and the first record stays. With the claim, the machine renews a copy of its checkpoints, from which another continues.
"""

import hashlib
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout
from fsspec.core import url_to_fs
from pydantic import BaseModel, ValidationError

from privbench.core import BusyError, Case, FailedCase, Record, StoreError, UserError
from privbench.store.folder import (
    CASE,
    CLAIM,
    FAILURE,
    LOCK,
    MEMBERS,
    RECONSTRUCTIONS,
    RECORD,
    TEMPORARY,
    WORK,
    CaseFolder,
    atomic_write,
)

__all__ = ["Remote", "fetched", "keep"]

PROGRESS = "progress.zip"
"""What another machine needs to continue a case."""

_FOLDERS = {"file", "local", "sftp", "ssh"}
"""Protocols with folders that must be made, and with a rename that replaces; others write an object whole or not at all."""
_EXCLUSIVE = {"file", "local", "memory"}
"""Protocols where one of two writers that create a file is refused for certain."""
_SETTLE = 0.5
"""Seconds after which a claim is read again where exclusive creation is not certain."""
_SLICE = 200
"""Files that are read in one request to the driver."""


class _Claim(BaseModel):
    """Who computes a case, and until when that holds, in seconds of the wall clock since 1970."""

    owner: str
    expires: float


@dataclass(frozen=True)
class Remote:
    """The folder of all cases at a URL.

    Credentials and addresses are fsspec's matter: the usual environment variables of each driver, and `~/.config/fsspec`.

    Attributes:
        url: Of the folder.
        scratch: Working folder; None: one for this URL in the user's cache, on every machine its own.
        lease: Seconds after which a claim that is not renewed ends; where clocks differ by more, a case may be computed twice.
    """

    url: str
    scratch: Path | None = None
    lease: float = 300.0

    def __str__(self) -> str:
        """The URL, without a password."""
        return re.sub(r"://([^/@:]*):[^/@]*@", r"://\1:***@", self.url.rstrip("/"))

    def __truediv__(self, name: str) -> str:
        """What to call something below the URL."""
        return f"{self}/{name}"

    @property
    def folder(self) -> Path:
        """The working folder on this machine."""
        if self.scratch is not None:
            return self.scratch
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return base / "privbench" / f"url-{hashlib.sha256(self.url.rstrip('/').encode()).hexdigest()[:12]}"

    # Reaching the URL

    def _open(self) -> tuple[Any, str, set[str]]:
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
        opened = self._open()
        try:
            yield opened
        except UserError:
            raise
        except Exception as error:
            raise StoreError(f"cannot {action} {self}: {_line(error)}; check the URL and your access") from None

    def check(self) -> None:
        """Refuses a URL that has no driver, cannot be reached, or is a file, before anything is computed.

        Raises:
            StoreError: It is one of these.
        """
        with self._reaching("read") as (system, root, _):
            if system.isfile(root):
                raise StoreError(f"{self} is a file; give the URL of a folder")

    def read(self, name: str) -> bytes | None:
        """A file, by its name below the URL; None where there is none.

        Raises:
            StoreError: The URL cannot be read.
        """
        with self._reaching("read") as (system, root, _):
            try:
                return bytes(system.cat_file(f"{root}/{name}"))
            except FileNotFoundError:
                return None

    def write(self, files: Mapping[str, bytes]) -> None:
        """Writes files, by their names below the URL; each is there whole or not at all, as far as the store can do that.

        Raises:
            StoreError: The place cannot be written.
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

    # Reading

    def find(self, case: Case) -> Record | FailedCase | None:
        """What is published of this very case: its record, or why it failed; None where neither can be read."""
        if (content := self.read(f"{case.folder}/{RECORD}")) is not None:
            with suppress(ValidationError):
                record = Record.model_validate_json(content)
                if record.case_id == record.case.identity == case.identity:
                    return record
        if (content := self.read(f"{case.folder}/{FAILURE}")) is not None:
            with suppress(ValidationError):
                failure = FailedCase.model_validate_json(content)
                if failure.case_id == case.identity:
                    return failure
        return None

    def fetch(self, target: Path, *, everything: bool = False, below: str = "") -> None:
        """Copies what lies at the URL into a folder: JSON files alone, as the leaderboard needs them, or all files.

        Of a case that is not finished, the copy has what `survey` looks at: whether it is claimed and whether it was begun.

        Args:
            target: The folder.
            everything: Pictures, traces and parts of ensembles too.
            below: The folder at the URL to which this is limited, such as a case's.

        Raises:
            StoreError: The URL cannot be read, or is a file.
        """
        self.check()
        with self._reaching("read") as (system, root, _):
            system.invalidate_cache()
            found = (str(path) for path in system.find(f"{root}/{below}".rstrip("/")))
            names = [name for path in found if (name := path[len(root) :].lstrip("/")) and _is_inside(name)]
            now = time.time()
            for content in _contents(system, root, [name for name in names if _is_wanted(name, everything=everything)]):
                for name, data in content.items():
                    (target / name).parent.mkdir(parents=True, exist_ok=True)
                    if PurePosixPath(name).name != CLAIM:
                        (target / name).write_bytes(data)
                    elif (claim := _claim(data)) is not None and claim.expires > now:
                        (target / name).touch()
            for name in names:
                if PurePosixPath(name).name == PROGRESS:
                    (target / name).with_name(WORK).mkdir(parents=True, exist_ok=True)

    # The writer's side

    def fail(self, case: Case, reason: str) -> None:
        """Publishes why a case could not be computed, and ends its claim.

        Raises:
            StoreError: The place cannot be written.
        """
        folder = CaseFolder(self.folder, case)
        folder.fail(reason)
        self._publish_failure(folder)
        self._remove(f"{case.folder}/{CLAIM}")

    def forget_failure(self, case: Case) -> None:
        """Lets a failed case be tried again.

        Raises:
            StoreError: The place cannot be written.
        """
        self._remove(f"{case.folder}/{FAILURE}")

    @contextmanager
    def working(self, case: Case, *, again: bool = False) -> Iterator[Record | FailedCase | None]:
        """Around computing a case in the working folder; what came of it there is published in the end.

        It gives what somebody else published meanwhile: then there is nothing to compute.

        Args:
            case: The case.
            again: Compute it although it is finished.

        Raises:
            BusyError: Another process or machine computes this case.
            StoreError: The URL or the working folder cannot be read or written.
        """
        folder = CaseFolder(self.folder, case)
        with self._alone(case), self._claimed(folder):
            found = None if again else self.find(case)
            if again:
                self._remove(*(f"{case.folder}/{name}" for name in (RECORD, FAILURE, PROGRESS)))
            elif found is None:
                self._take_progress(folder)
            try:
                yield found
            except BaseException:
                # What is needed to continue elsewhere; whatever goes wrong here, the reason is told.
                with suppress(Exception):
                    self._save_progress(folder)
                raise
            if found is None:
                self._publish(folder)

    @contextmanager
    def _alone(self, case: Case) -> Iterator[None]:
        """Keeps other processes with this working folder out of a case."""
        path = self.folder / "locks" / case.folder
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
            lock.acquire(blocking=False)
        except Timeout:
            raise BusyError(f"another process computes {self}/{case.folder}; wait for it") from None
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror or error}; choose another --scratch") from None
        try:
            yield
        finally:
            # As in `CaseFolder.locked`: whoever opened it meanwhile finds it unlinked and tries afresh.
            with suppress(OSError):
                path.unlink()
            lock.release()

    def is_claimed(self, case: Case) -> bool:
        """Whether another machine, or another process of this one, computes a case now."""
        claim = _claim(self.read(f"{case.folder}/{CLAIM}"))
        return claim is not None and claim.expires > time.time() and not self._is_stale(claim, case)

    def _is_stale(self, claim: _Claim, case: Case) -> bool:
        """Whether a claim is that of a process with this working folder which is gone."""
        # Who only looks makes no working folder.
        if not (self.folder / "owner").exists() or claim.owner != self._owner():
            return False
        try:
            with self._alone(case):
                return True
        except BusyError:
            return False

    def _owner(self) -> str:
        """The name of the working folder in claims: whatever a dead process has claimed from here, the next one may take."""
        path = self.folder / "owner"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / LOCK):
                if not path.exists():
                    atomic_write(path, uuid.uuid4().hex.encode())
        return path.read_text(encoding="utf-8")

    @contextmanager
    def _claimed(self, folder: CaseFolder) -> Iterator[None]:
        """Claims a case for this working folder, renewing the claim and the copy of the checkpoints from time to time."""
        name, owner = f"{folder.case.folder}/{CLAIM}", self._owner()
        self._claim(name, owner)
        over = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(folder, name, owner, over), daemon=True)
        keeper.start()
        try:
            yield
        finally:
            over.set()
            keeper.join()
            with suppress(UserError):
                if (claim := _claim(self.read(name))) is not None and claim.owner == owner:
                    self._remove(name)

    def _claim(self, name: str, owner: str) -> None:
        busy = BusyError(f"another machine computes {self}/{name.rpartition('/')[0]}; wait for it, or for its claim to end")
        content = self.read(name)
        if content is not None:
            if (claim := _claim(content)) is None:  # half-written, or nobody's
                time.sleep(_SETTLE)
                claim = _claim(self.read(name))
            if claim is not None and claim.owner != owner and claim.expires > time.time():
                raise busy
            self._remove(name)
        ours = self._new_claim(owner)
        with self._reaching("write to") as (system, root, protocols):
            path = f"{root}/{name}"
            if protocols & _FOLDERS:
                system.makedirs(path.rpartition("/")[0], exist_ok=True)
            try:
                if protocols & _EXCLUSIVE:
                    with system.open(path, "xb") as file:
                        file.write(ours)
                    if content is None:
                        return
                else:
                    system.pipe_file(path, ours, mode="create")
            except FileExistsError:
                raise busy from None
            except Exception:
                if protocols & _EXCLUSIVE:
                    raise
                # Another machine was faster, which drivers say in different ways, or the driver cannot create exclusively.
                claim = _claim(self.read(name))
                if claim is not None and claim.owner != owner:
                    raise busy from None
                system.pipe_file(path, ours)
        # Of several machines that wrote, or took over, at the same time, the last one has it.
        time.sleep(_SETTLE)
        claim = _claim(self.read(name))
        if claim is None or claim.owner != owner:
            raise busy

    def _new_claim(self, owner: str) -> bytes:
        return _Claim(owner=owner, expires=time.time() + self.lease).model_dump_json().encode()

    def _keep(self, folder: CaseFolder, name: str, owner: str, over: threading.Event) -> None:
        """The body of the thread that renews; what fails is tried again, because no result depends on it."""
        saved: frozenset[tuple[str, int]] = _signature(folder)
        rest_until = 0.0
        while not over.wait(self.lease / 5):
            with suppress(Exception):
                claim = _claim(self.read(name))
                if claim is None or claim.owner == owner:
                    self.write({name: self._new_claim(owner)})
                # Copies of large checkpoints over a slow line take a tenth of the time at most.
                if time.monotonic() >= rest_until and (now := _signature(folder)) != saved:
                    began = time.monotonic()
                    self._save_progress(folder)
                    saved = now
                    rest_until = time.monotonic() + 10 * (time.monotonic() - began)

    # Checkpoints

    def _save_progress(self, folder: CaseFolder) -> None:
        if folder.has_progress() and folder.record() is None:
            self.write({f"{folder.case.folder}/{PROGRESS}": _packed(folder.path)})

    def _take_progress(self, folder: CaseFolder) -> None:
        """Continues from what another machine left, where this one has nothing."""
        if folder.has_progress() or folder.record() is not None:
            return
        if (content := self.read(f"{folder.case.folder}/{PROGRESS}")) is not None:
            # A damaged copy is none: the case starts over.
            with suppress(zipfile.BadZipFile), zipfile.ZipFile(BytesIO(content)) as archive:
                for name in archive.namelist():
                    if _is_inside(name):
                        atomic_write(folder.path / name, archive.read(name))

    # Publishing

    def _publish(self, folder: CaseFolder) -> None:
        """Publishes what came of a case: its record, unless somebody was faster, or why it failed."""
        record = folder.record()
        if record is None:
            if folder.failure() is not None:
                self._publish_failure(folder)
            return
        name = folder.case.folder
        if not isinstance(self.find(folder.case), Record):
            files = {path: (folder.path / path).read_bytes() for path in _files(folder.path) if not _is_kept_here(path)}
            content = files.pop(RECORD)
            self.write({f"{name}/{path}": data for path, data in files.items()})
            self.write({f"{name}/{RECORD}": content})
        self._remove(f"{name}/{FAILURE}", f"{name}/{PROGRESS}", *self._leftovers(name))
        shutil.rmtree(folder.path, ignore_errors=True)

    def _leftovers(self, folder: str) -> list[str]:
        """Temporary files of machines that were killed while they wrote."""
        with self._reaching("read") as (system, root, protocols):
            if not protocols & _FOLDERS:
                return []
            names = (PurePosixPath(path).name for path in system.ls(f"{root}/{folder}", detail=False))
            return [f"{folder}/{name}" for name in names if name.startswith(TEMPORARY)]

    def _publish_failure(self, folder: CaseFolder) -> None:
        """What was finished of the case stays in the working folder, for who tries it again."""
        files = {name: (folder.path / name).read_bytes() for name in (CASE, FAILURE) if (folder.path / name).exists()}
        self.write({f"{folder.case.folder}/{name}": data for name, data in files.items()})
        folder.forget_failure()


@contextmanager
def fetched(place: Path | Remote, *, everything: bool = False, below: str = "") -> Iterator[Path]:
    """A folder as it is, or a copy of what lies at a URL, for as long as the block lasts.

    Args:
        place: Of results.
        everything: As of `Remote.fetch`.
        below: As of `Remote.fetch`.

    Raises:
        UserError: The URL cannot be read. Errors inside the block name the URL, not the copy.
    """
    if isinstance(place, Path):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="privbench-") as copy:
        place.fetch(Path(copy), everything=everything, below=below)
        try:
            yield Path(copy)
        except UserError as error:
            raise type(error)(str(error).replace(copy, str(place))) from None


def keep(place: Path | Remote, name: str, content: bytes) -> None:
    """Writes a file below a folder or URL, whole or not at all.

    Raises:
        StoreError: The place cannot be written.
    """
    if isinstance(place, Path):
        atomic_write(place / name, content)
    else:
        place.write({name: content})


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


def _claim(content: bytes | None) -> _Claim | None:
    with suppress(ValidationError):
        return None if content is None else _Claim.model_validate_json(content)
    return None


def _is_inside(name: str) -> bool:
    """Whether a name means something below a folder."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _is_wanted(name: str, *, everything: bool) -> bool:
    parts = PurePosixPath(name).parts
    if parts[-1] == PROGRESS or parts[-1].startswith(TEMPORARY):
        return False
    return everything or parts[-1] == CLAIM or (name.endswith(".json") and not {MEMBERS, RECONSTRUCTIONS} & set(parts))


def _files(folder: Path) -> list[str]:
    """All files below a folder, by their names in it, with slashes."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _is_kept_here(name: str) -> bool:
    """Whether a file of a case means something to this machine alone."""
    parts = PurePosixPath(name).parts
    return WORK in parts or parts[-1] == LOCK or parts[-1].startswith(TEMPORARY)


def _signature(folder: CaseFolder) -> frozenset[tuple[str, int]]:
    """Differs where a checkpoint or a finished batch does."""
    found = set()
    for path in folder.path.rglob(f"{WORK}/*"):
        with suppress(OSError):
            found.add((path.name, path.stat().st_mtime_ns))
    return frozenset(found)


def _packed(folder: Path) -> bytes:
    """An unfinished case as a zip file, while it is being computed.

    Records and what is kept of batches are read first: what they speak of, pictures above all, was written before them.
    """
    buffer = BytesIO()
    taken = set()
    with zipfile.ZipFile(buffer, "w") as archive:
        for first in (True, False):
            for name in _files(folder):
                path = PurePosixPath(name)
                kept = WORK in path.parts or path.name == RECORD
                if name in taken or kept is not first or path.name == LOCK or path.name.startswith(TEMPORARY):
                    continue
                with suppress(FileNotFoundError):  # finished meanwhile
                    archive.writestr(name, (folder / name).read_bytes())
                    taken.add(name)
    return buffer.getvalue()
