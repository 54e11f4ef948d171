"""Where results lie: one folder per case, complete exactly when it holds a record.

Every file is written under a temporary name in its own folder, synced, and renamed into place; the record comes last. A lock
keeps a second process out of a case that is being computed. What is kept between interruptions lies in `.work/`, which a
finished case no longer has.
"""

import hashlib
import json
import os
import pickle
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from pydantic import ValidationError
from torch.serialization import default_restore_location

from privbench import __version__
from privbench.core import BusyError, Case, FailedCase, ImageResult, Record, StoreError, UserError
from privbench.store.trace import TraceRow

__all__ = [
    "CaseFolder",
    "Checkpoint",
    "FinishedBatch",
    "Slot",
    "atomic_write",
    "check_output",
    "find_records",
    "find_results",
    "is_locked",
    "refuse_folder",
    "walk_results",
    "write_plan",
]

RECORD = "record.json"
FAILURE = "failure.json"
CASE = "case.yaml"
TRACE = "trace.csv"
COMPARISON = "comparison.png"
RECONSTRUCTIONS = "reconstructions"
MEMBERS = "members"
WORK = ".work"
LOCK = ".lock"
CLAIM = ".claim"

TEMPORARY = ".privbench-"
_STATE_SCHEMA = 3


@dataclass(frozen=True)
class Slot:
    """A place for a group: the client batches of a case in so many at a time, counted from the first batch.

    Attributes:
        first: Its first batch, a multiple of `size`.
        size: How many batches it has room for; the last slot of a case may hold fewer.
    """

    first: int
    size: int

    @classmethod
    def of(cls, batch: int, size: int) -> "Slot":
        """The slot of a batch."""
        return cls(batch - batch % size, size)

    @property
    def room(self) -> range:
        """The batches that it has room for."""
        return range(self.first, self.first + self.size)

    @property
    def file_name(self) -> str:
        """The name of its checkpoint."""
        return f"batches-{self.room[0]:05d}-{self.room[-1]:05d}.pt"

    @classmethod
    def from_file_name(cls, name: str) -> "Slot | None":
        """The slot of a checkpoint's name, None where it is not the name of one."""
        found = re.fullmatch(r"batches-(\d+)-(\d+)\.pt", name)
        return cls(int(found[1]), int(found[2]) + 1 - int(found[1])) if found else None


@dataclass(frozen=True)
class Checkpoint:
    """An interrupted group.

    Attributes:
        batches: The client batches that the attack took together, in its order.
        state: The attack's own state, exactly as it was handed over.
        traces: What the attack had reported of each batch by then.
        seconds: Wall time that the attack had used by then.
        pictures: What the attack had shown of each batch by then: step to `[batch, 3, height, width]` uint8.
    """

    batches: tuple[int, ...]
    state: Mapping[str, Any]
    traces: tuple[tuple[TraceRow, ...], ...]
    seconds: float
    pictures: tuple[Mapping[int, torch.Tensor], ...] = ()


@dataclass(frozen=True)
class FinishedBatch:
    """One client batch, attacked and scored.

    Attributes:
        images: One result per private image, in the order of the batch.
        trace: What the attack reported.
        seconds: Wall time of the attack on the whole batch, an equal share of its group's.
        group: How many batches were attacked together with it, itself included.
    """

    images: tuple[ImageResult, ...]
    trace: tuple[TraceRow, ...]
    seconds: float
    group: int


def _refusal(action: str, path: Path, error: OSError) -> StoreError:
    return StoreError(f"cannot {action} {path}: {error.strerror or error}; free the place or choose another --output")


def _temporary(name: str) -> str:
    """How the temporary names of a file begin; short, whatever its name is."""
    return f"{TEMPORARY}{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:12]}-"


def atomic_write(path: Path, content: bytes) -> None:
    """Writes a file so that it exists whole or not at all, even when the process is killed.

    Args:
        path: The file; missing folders are made.
        content: All of it.

    Raises:
        StoreError: The place cannot be written.
    """
    temporary = path.parent / f"{_temporary(path.name)}{uuid.uuid4().hex}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _refusal("write", path, error) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def refuse_folder(target: Path) -> None:
    """Raises `UserError` where a file is to be written and a folder of that name is there."""
    if target.is_dir():
        raise UserError(f"cannot write {target}: it is a folder; give the name of a file")


def write_plan(output: Path, name: str, content: bytes) -> None:
    """Writes a file beside the folders of cases, under a lock, so that what killed processes left of it can be removed.

    Args:
        output: Folder of all cases; it is made.
        name: Of the file.
        content: All of it.

    Raises:
        StoreError: The place cannot be written.
    """
    lock_path = output / LOCK
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(lock_path)
        lock.acquire()
    except OSError as error:
        raise _refusal("write", output, error) from None
    try:
        for leftover in output.glob(f"{_temporary(name)}*"):
            with suppress(OSError):
                leftover.unlink()
        atomic_write(output / name, content)
    finally:
        with suppress(OSError):
            lock_path.unlink()
        lock.release()


def check_output(output: Path) -> None:
    """Refuses an output folder that cannot be written, before anything is computed and without making it.

    Raises:
        StoreError: It is a file, lies below a file, is read-only, or lies where no folder can be made.
    """
    existing = output
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise StoreError(f"cannot write to {output}: {existing} is a file; choose a folder as --output")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise StoreError(f"cannot write to {output}: {existing} is read-only; choose another --output")
    if existing != output:
        # To a superuser everything seems writable, and in /proc, /sys or on a full disk nothing is.
        try:
            Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=existing)).rmdir()
        except OSError as error:
            raise StoreError(f"cannot write to {output}: {error.strerror} in {existing}; choose another --output") from None


class CaseFolder:
    """The folder of one case.

    Args:
        output: Folder of all cases.
        case: The case; its name and hash give the folder's name.
    """

    def __init__(self, output: Path, case: Case) -> None:
        self.case = case
        self.path = output / case.folder

    # Finished cases

    def record(self) -> Record | None:
        """The record of this very case, None where it is not finished or the file does not hold it."""
        try:
            record = Record.load(self.path / RECORD)
        except UserError:
            return None
        return record if record.case_id == record.case.identity == self.case.identity else None

    def has_unusable_record(self) -> bool:
        """True where a record lies here that cannot be used: broken, of another version, or of another case."""
        return (self.path / RECORD).exists() and self.record() is None

    def finish(self, record: Record) -> Record:
        """Writes the record, the last of all files, and drops what was kept for an interruption.

        Returns:
            The record as written, with the checksums of the other files.
        """
        record = record.model_copy(update={"files": self._checksums()})
        self.write(RECORD, record.to_json().encode())
        (self.path / FAILURE).unlink(missing_ok=True)
        shutil.rmtree(self.path / WORK, ignore_errors=True)
        return record

    def _checksums(self) -> dict[str, str]:
        names = (name for name in (CASE, TRACE, COMPARISON) if (self.path / name).is_file())
        pictures = (f"{RECONSTRUCTIONS}/{path.name}" for path in (self.path / RECONSTRUCTIONS).glob("*.png"))
        return {name: self._checksum(name) for name in sorted((*names, *pictures))}

    def _checksum(self, name: str) -> str:
        return hashlib.sha256((self.path / name).read_bytes()).hexdigest()

    def damaged(self, record: Record) -> list[str]:
        """Files of a finished case that are missing or not what its record says; none where the record says nothing."""
        return [name for name, known in record.files.items() if not self._is(name, known)]

    def _is(self, name: str, checksum: str) -> bool:
        try:
            return self._checksum(name) == checksum
        except OSError:
            return False

    # Failed cases

    def failure(self) -> FailedCase | None:
        """Why this very case could not be computed, None where nothing says so."""
        try:
            failure = FailedCase.load(self.path / FAILURE)
        except UserError:
            return None
        return failure if failure.case_id == self.case.identity else None

    def fail(self, reason: str) -> FailedCase:
        """Keeps why the case could not be computed; what was finished of it stays.

        Raises:
            StoreError: The place cannot be written.
        """
        failure = FailedCase(
            case_id=self.case.identity,
            case=self.case,
            reason=reason,
            version=__version__,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self.write(FAILURE, failure.to_json().encode())
        return failure

    def is_locked(self) -> bool:
        """Whether a process computes this case now."""
        return is_locked(self.path)

    def forget_failure(self) -> None:
        """Lets a failed case be tried again.

        Raises:
            StoreError: The folder is read-only.
        """
        try:
            (self.path / FAILURE).unlink(missing_ok=True)
        except OSError as error:
            raise _refusal("clear", self.path, error) from None

    # The writer's side

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Claims the folder for this process; a folder that stays empty is removed again.

        Raises:
            BusyError: Another process computes this case.
            StoreError: The folder cannot be made.
        """
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        lock_path = self.path / LOCK
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(lock_path)
            lock.acquire(blocking=False)
        except Timeout:
            raise BusyError(f"another process computes {self.path}; wait for it or choose another --output") from None
        except OSError as error:
            raise _refusal("write", self.path, error) from None
        try:
            self._sweep()
            yield
        finally:
            # The lock file goes while it is held: whoever opened it meanwhile finds it unlinked and tries afresh.
            with suppress(OSError):
                lock_path.unlink()
            lock.release()
            with suppress(OSError):
                for folder in made:
                    folder.rmdir()

    def _sweep(self) -> None:
        """Removes the temporary files of a process that was killed."""
        for leftover in self.path.rglob(f"{TEMPORARY}*"):
            with suppress(OSError):
                leftover.unlink()

    def clear(self) -> None:
        """Forgets everything computed for this case, the record first.

        Raises:
            StoreError: The folder is read-only.
        """
        try:
            (self.path / RECORD).unlink(missing_ok=True)
            for name in (WORK, RECONSTRUCTIONS, MEMBERS):
                if (self.path / name).exists():
                    shutil.rmtree(self.path / name)
            for name in (CASE, TRACE, COMPARISON, FAILURE):
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise _refusal("clear", self.path, error) from None

    def write(self, name: str, content: bytes) -> None:
        """Writes one file of the folder, whole or not at all.

        Raises:
            StoreError: The place cannot be written.
        """
        atomic_write(self.path / name, content)

    # Between interruptions

    def _state_path(self, slot: Slot) -> Path:
        return self.path / WORK / slot.file_name

    def _batch_path(self, batch: int) -> Path:
        return self.path / WORK / f"batch-{batch:05d}.json"

    def has_progress(self) -> bool:
        """True where an interrupted run left something to continue from."""
        return (self.path / WORK).is_dir() or (self.path / MEMBERS).is_dir()

    def interrupted(self) -> list[Slot]:
        """The slots that have a checkpoint, by size and place."""
        slots = [Slot.from_file_name(path.name) for path in (self.path / WORK).glob("*.pt")]
        return sorted((slot for slot in slots if slot is not None), key=lambda slot: (slot.size, slot.first))

    def save_checkpoint(self, slot: Slot, device: torch.device, checkpoint: Checkpoint) -> None:
        """Keeps the state of an unfinished group.

        Raises:
            StoreError: The place cannot be written.
        """
        buffer = BytesIO()
        torch.save({**self._stamp(device), **vars(checkpoint), "state": dict(checkpoint.state)}, buffer)
        atomic_write(self._state_path(slot), buffer.getvalue())

    def drop_checkpoint(self, slot: Slot) -> None:
        """Forgets the state of a group: it is finished, or will not be continued."""
        self._state_path(slot).unlink(missing_ok=True)

    def load_checkpoint(self, slot: Slot, device: torch.device) -> tuple[Checkpoint | None, str | None]:
        """Reads the state of an unfinished group.

        Returns:
            The checkpoint, or None with the reason why the one that lies there cannot be used, or None and None.
        """
        path = self._state_path(slot)
        if not path.exists():
            return None, None
        try:
            content = torch.load(path, map_location=_onto(device), weights_only=True)
            batches = tuple(map(int, content["batches"]))
            traces = tuple(map(_trace, content["traces"]))
            pictures = tuple(map(dict, content["pictures"]))
            checkpoint = Checkpoint(batches, content["state"], traces, float(content["seconds"]), pictures)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError, ValueError) as error:
            return None, f"the checkpoint {path} is damaged ({type(error).__name__})"
        stamp = self._stamp(device)
        differing = [key for key, value in stamp.items() if content.get(key) != value]
        if differing:
            key = differing[0]
            return None, f"the checkpoint {path} is of another {key} ({content.get(key)}, here {stamp[key]})"
        if not set(batches) <= set(slot.room) or len(traces) != len(batches):
            return None, f"the checkpoint {path} is of other batches ({', '.join(map(str, batches))})"
        return checkpoint, None

    def _stamp(self, device: torch.device) -> dict[str, Any]:
        return {
            "format": _STATE_SCHEMA,
            "version": __version__,
            "case": self.case.identity,
            "device": device.type,
        }

    def save_batch(self, batch: int, finished: FinishedBatch) -> None:
        """Keeps the results of a finished batch.

        Raises:
            StoreError: The place cannot be written.
        """
        content = {
            "format": _STATE_SCHEMA,
            "version": __version__,
            "case": self.case.identity,
            "images": [image.model_dump(mode="json") for image in finished.images],
            "trace": finished.trace,
            "seconds": finished.seconds,
            "group": finished.group,
        }
        atomic_write(self._batch_path(batch), json.dumps(content).encode())

    def load_batch(self, batch: int) -> tuple[FinishedBatch | None, str | None]:
        """Reads the results of a finished batch.

        Returns:
            The results, or None with the reason why the file that lies there cannot be used, or None and None.
        """
        path = self._batch_path(batch)
        if not path.exists():
            return None, None
        try:
            content = json.loads(path.read_bytes())
            images = tuple(ImageResult.model_validate(image) for image in content["images"])
            finished = FinishedBatch(images, _trace(content["trace"]), float(content["seconds"]), int(content["group"]))
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            return None, f"the batch {path} is damaged ({type(error).__name__})"
        if (content.get("format"), content.get("version"), content.get("case")) != (
            _STATE_SCHEMA,
            __version__,
            self.case.identity,
        ):
            return None, f"the batch {path} is of another case or version"
        pictures = [image.reconstruction for image in images if image.reconstruction is not None]
        missing = next((name for name in pictures if not (self.path / name).is_file()), None)
        if missing is not None:
            return None, f"the picture {self.path / missing} is missing"
        return finished, None


def _trace(rows: Iterable[Any]) -> tuple[TraceRow, ...]:
    return tuple((int(step), str(phase), dict(losses)) for step, phase, losses in rows)


def _onto(device: torch.device) -> Callable[[Any, str], Any]:
    """Tensors of the accelerator go to this run's one; those of the CPU, such as generator states, stay."""

    def place(storage: Any, location: str) -> Any:
        return default_restore_location(storage, location if location == "cpu" else str(device))  # type: ignore[no-untyped-call]

    return place


def is_locked(folder: Path) -> bool:
    """Whether a process computes the case of a folder now; in a copy of a URL, whether a machine did when it was fetched."""
    if (folder / CLAIM).exists():
        return True
    path = folder / LOCK
    if not path.exists():
        return False
    probe = FileLock(path)
    try:
        probe.acquire(blocking=False)
    except (Timeout, OSError):
        return True
    # Left by a process that was killed, or made just now by this probe.
    with suppress(OSError):
        path.unlink()
    probe.release()
    return False


def walk_results(folder: Path) -> list[Path]:
    """All JSON files below a folder in one walk, sorted by path: of finished and failed cases and of what is made of them.

    The parts of ensembles are no rows of their own, and what is kept of a case in progress is no result.

    Raises:
        UserError: There is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give one that `privbench run --output` wrote to")
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in {MEMBERS, WORK, RECONSTRUCTIONS}]
        found += [Path(place, name) for name in names if name.endswith(".json")]
    return sorted(found)


def find_results(folder: Path) -> list[Path]:
    """What `walk_results` finds, a record among it.

    Raises:
        UserError: There is no such folder, or no record below it.
    """
    found = walk_results(folder)
    if not any(path.name == RECORD for path in found):
        raise UserError(f"there is no {RECORD} below {folder}; give a folder that `privbench run --output` wrote to")
    return found


def find_records(folder: Path) -> list[Path]:
    """All record files below a folder, sorted by path; the parts of ensembles are no rows of their own.

    Raises:
        UserError: There is no such folder, or no record below it.
    """
    return [path for path in find_results(folder) if path.name == RECORD]
