"""Files that a user names: read whole, up to a limit, and only where they are files."""

import stat
from pathlib import Path

from privbench.core.errors import UserError

__all__ = ["LARGEST_FILE", "read_input"]

LARGEST_FILE = 2**30
"""Bytes of a file among results of which nothing else is known."""


def read_input(path: Path, kind: str, largest: int) -> bytes:
    """Reads a file.

    Args:
        path: The file.
        kind: What a message calls it, such as "study".
        largest: Bytes that are accepted.

    Raises:
        UserError: There is none, it is a folder, a pipe or a device, it is too large, or it cannot be read.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            what = "a folder" if stat.S_ISDIR(about.st_mode) else "no regular file (a pipe or a device)"
            raise UserError(f"cannot read the {kind} {path}: it is {what}; give the name of a file")
        if about.st_size > largest:
            size, limit = about.st_size / 1e6, largest / 1e6
            raise UserError(f"cannot read the {kind} {path}: it has {size:,.0f} MB, at most {limit:,.0f} are accepted")
        with path.open("rb", buffering=0) as file:  # it is read whole, which no buffer helps
            return file.readall()
    except OSError as error:
        raise UserError(f"cannot read the {kind} {path}: {error.strerror or error}") from None
    except ValueError as error:  # a zero byte in the name
        if isinstance(error, UserError):
            raise
        raise UserError(f"cannot read the {kind} {str(path)!r}: {error}") from None
