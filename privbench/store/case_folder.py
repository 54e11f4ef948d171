"""The folder of one case, complete exactly when it holds a record.

Every file is written whole or not at all, the record last. A lock keeps a second process out of a case that is being computed.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from privbench import __version__
from privbench.core import BusyError, Case, FailedCase, Record, UserError
from privbench.store.files import atomic_write, refusal
from privbench.store.layout import (
    CASE,
    COMPARISON,
    EVOLUTION,
    FAILURE,
    LOCK,
    MEMBERS,
    RECONSTRUCTIONS,
    RECORD,
    TEMPORARY,
    TRACE,
    WORK,
)

__all__ = ["CaseFolder", "is_locked", "repeatable"]


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
            The record as written: data set and weights by name, and the checksums of the other files.
        """
        record = record.model_copy(update={"case": record.case.without_paths(), "files": self._checksums()})
        self.write(RECORD, record.to_json().encode())
        (self.path / FAILURE).unlink(missing_ok=True)
        shutil.rmtree(self.path / WORK, ignore_errors=True)
        return record

    def _checksums(self) -> dict[str, str]:
        names = (name for name in (CASE, TRACE, COMPARISON, EVOLUTION) if (self.path / name).is_file())
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
            case=self.case.without_paths(),
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
            raise refusal("clear", self.path, error) from None

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
            raise refusal("write", self.path, error) from None
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
            raise refusal("clear", self.path, error) from None

    def write(self, name: str, content: bytes) -> None:
        """Writes one file of the folder, whole or not at all.

        Raises:
            StoreError: The place cannot be written.
        """
        atomic_write(self.path / name, content)

    def has_progress(self) -> bool:
        """True where an interrupted run left something to continue from."""
        return (self.path / WORK).is_dir() or (self.path / MEMBERS).is_dir()


def repeatable(folder: Path, record: Record) -> Record:
    """A record whose case can be computed again: with the paths of data and weights, where `case.yaml` beside it has them."""
    with suppress(UserError):
        case = Case.from_yaml(folder / CASE)
        if case.identity == record.case_id:
            return record.model_copy(update={"case": case})
    return record


def is_locked(folder: Path) -> bool:
    """Whether a process of this machine computes the case of a folder now."""
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
