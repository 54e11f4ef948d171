"""A folder as a store: what is computed there is published the moment its record is written."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from privbench.core import Case, FailedCase, Record, UserError
from privbench.store.case_folder import CaseFolder
from privbench.store.files import atomic_write, check_output
from privbench.store.layout import TEMPORARY

__all__ = ["FolderStore"]


@dataclass(frozen=True)
class FolderStore:
    """The folder of all cases on this machine, or on a disk that several machines share.

    Attributes:
        path: The folder; it need not be there yet.
    """

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> str:
        return str(self.path / name)

    @property
    def working(self) -> Path:
        """The folder itself."""
        return self.path

    def check(self) -> None:
        """As of `Store`."""
        check_output(self.path)

    def find(self, case: Case) -> Record | FailedCase | None:
        """As of `Store`."""
        folder = CaseFolder(self.path, case)
        return folder.record() or folder.failure()

    def list(self) -> Sequence[str]:
        """As of `Store`.

        Raises:
            UserError: There is no such folder.
        """
        if not self.path.is_dir():
            raise UserError(f"there is no folder {self}; give one that `privbench run` or `privbench sweep` wrote to")
        found = (
            Path(place, name) for place, _, names in os.walk(self.path) for name in names if not name.startswith(TEMPORARY)
        )
        return sorted(path.relative_to(self.path).as_posix() for path in found)

    def read(self, name: str) -> bytes | None:
        """As of `Store`.

        Raises:
            UserError: The file is there and cannot be read.
        """
        path = self.path / name
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None

    @contextmanager
    def open(self, below: str = "", *, everything: bool = True) -> Iterator[Path]:
        """The folder itself."""
        yield self.path

    def publish(self, case: Case, *, replace: bool = False) -> None:
        """Nothing is left to do: the case lies where it belongs."""

    def write(self, files: Mapping[str, bytes]) -> None:
        """As of `Store`."""
        for name, content in files.items():
            atomic_write(self.path / name, content)

    def forget_failure(self, case: Case) -> None:
        """As of `Store`.

        Raises:
            StoreError: The folder is read-only.
        """
        CaseFolder(self.path, case).forget_failure()
