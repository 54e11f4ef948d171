"""NumPy files read by what their headers say, before any memory is asked for: no promise of petabytes, no bomb.

An archive is a ZIP file of arrays. What an array's header claims has to be what the archive holds of it, and what it unpacks to
has to stand in a proportion to the file that pictures can reach.
"""

import math
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from privbench.core.errors import UserError
from privbench.data.pixels import first_line

__all__ = ["read_archive", "read_array"]

_HARMLESS = 2**28
"""Bytes of an array that are unpacked without a question."""
_MOST_PACKED = 100
"""How many times smaller a larger array may be packed; photographs reach 2."""


def read_archive(path: Path, names: Collection[str] | None = None) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """Reads arrays of a `.npz` archive.

    Args:
        path: The archive.
        names: Which; None: all of them.

    Returns:
        The arrays by name, and the names of all that the archive has.

    Raises:
        UserError: It is no such archive, it is damaged, or an array is not as large as it says.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = [name for name in members if names is None or name in names]
            return {name: _member(archive, members[name], f"{path}: {name}") for name in wanted}, tuple(members)
    except UserError:
        raise
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"cannot read {path} as a .npz archive ({first_line(error)}); write it with numpy.savez") from None


def read_array(path: Path) -> NDArray[Any]:
    """Reads a `.npy` file.

    Raises:
        UserError: It is none, is damaged, or is not as large as it says.
    """
    try:
        with path.open("rb") as file:
            _require_size(_claimed(file) + file.tell(), path.stat().st_size, str(path))
            file.seek(0)
            found: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            return found
    except UserError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"cannot read {path} as a .npy array ({first_line(error)}); write it with numpy.save") from None


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, what: str) -> NDArray[Any]:
    if info.file_size > max(_HARMLESS, _MOST_PACKED * info.compress_size):
        raise UserError(
            f"{what} unpacks to {info.file_size / 1e6:,.0f} MB from {info.compress_size / 1e6:,.1f}; that is no array of "
            "pictures; write it with numpy.savez"
        )
    with archive.open(info) as file:
        _require_size(_claimed(file) + file.tell(), info.file_size, what)
    with archive.open(info) as file:
        found: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        return found


def _claimed(file: IO[bytes]) -> int:
    """Bytes of the array whose header comes next."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return math.prod(shape) * dtype.itemsize if not dtype.hasobject else 0


def _require_size(claimed: int, there: int, what: str) -> None:
    if claimed > there:
        raise UserError(f"{what} says that it has {claimed:,} bytes, and {there:,} are there; write it again")
