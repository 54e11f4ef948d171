"""Files that exist whole or not at all: written under a temporary name in their own folder, synced, renamed into place."""

import hashlib
import os
import stat
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from privbench.core.errors import StoreError, UserError
from privbench.store.layout import LOCK, TEMPORARY

__all__ = ["atomic_write", "check_output", "refusal", "refuse_folder", "write_locked"]


def refusal(action: str, path: Path, error: OSError) -> StoreError:
    """The line for a place that cannot be written."""
    return StoreError(f"cannot {action} {path}: {error.strerror or error}; free the place or choose another --output")


def _temporary(name: str) -> str:
    """How the temporary names of a file begin; short, whatever its name is."""
    return f"{TEMPORARY}{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:12]}-"


def atomic_write(path: Path, content: bytes) -> None:
    """Writes a file so that it exists whole or not at all, even when the process is killed.

    Through a symbolic link it writes the file behind it; a device or a pipe is written to and stays what it is.

    Args:
        path: The file; missing folders are made.
        content: All of it.

    Raises:
        StoreError: The place cannot be written.
    """
    if _is_special(path):
        _write_through(path, content)
        return
    with suppress(OSError):
        path = path.resolve() if path.is_symlink() else path
    temporary = path.parent / f"{_temporary(path.name)}{uuid.uuid4().hex}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise refusal("write", path, error) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def _is_special(path: Path) -> bool:
    """Whether a device, a pipe or a socket is there."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _write_through(path: Path, content: bytes) -> None:
    """Writes to what is there; a pipe that nobody reads is refused and not waited for."""
    try:
        descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "wb") as file:
            os.set_blocking(descriptor, True)
            file.write(content)
    except OSError as error:
        raise refusal("write", path, error) from None


def refuse_folder(target: Path) -> None:
    """Raises `UserError` where a file is to be written and a folder of that name is there."""
    if target.is_dir():
        raise UserError(f"cannot write {target}: it is a folder; give the name of a file")


def write_locked(output: Path, name: str, content: bytes) -> None:
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
        raise refusal("write", output, error) from None
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
