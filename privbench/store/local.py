"""A folder as a store: what is computed there is published the moment its record is written.

Packs that lie in the folder count as if they were folders of their names.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from privbench.core import Case, FailedCase, Record, UserError
from privbench.core.inputs import LARGEST_FILE, read_input
from privbench.store.base import is_table_row
from privbench.store.case_folder import CaseFolder, is_locked
from privbench.store.files import atomic_write, check_output
from privbench.store.layout import TEMPORARY
from privbench.store.pack import SUFFIX, PackStore

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
            UserError: There is no such folder, or a pack in it is damaged.
        """
        names = self._names()
        packed = (f"{name}/{inside}" for name in names if name.endswith(SUFFIX) for inside in self._pack(name).list())
        return sorted([*(name for name in names if not name.endswith(SUFFIX)), *packed])

    def _names(self) -> Sequence[str]:
        if not self.path.is_dir():
            raise UserError(f"there is no folder {self}; give one that `privbench run` or `privbench sweep` wrote to")
        found = (
            Path(place, name).relative_to(self.path).as_posix() for place, _, names in os.walk(self.path) for name in names
        )
        return [name for name in found if TEMPORARY not in name]

    def _pack(self, name: str) -> PackStore:
        return PackStore(self.path / name)

    def _inside_pack(self, name: str) -> tuple[PackStore, str] | None:
        """The pack in which a name lies, and what it is called there."""
        head, found, below = f"{name}/".partition(f"{SUFFIX}/")
        path = self.path / f"{head}{SUFFIX}"
        return (PackStore(path), below.rstrip("/")) if found and path.is_file() else None

    def read(self, name: str) -> bytes | None:
        """As of `Store`.

        Raises:
            UserError: The file is there and cannot be read.
        """
        if (packed := self._inside_pack(name)) is not None:
            return packed[0].read(packed[1])
        path = self.path / name
        return read_input(path, "file", LARGEST_FILE) if os.path.lexists(path) else None

    def is_running(self, name: str) -> bool:
        """As of `Store`."""
        return is_locked(self.path / name)

    @contextmanager
    def open(self, below: str = "", *, everything: bool = True) -> Iterator[Path]:
        """The folder itself; where packs lie in it, a view of it in which they are folders."""
        packed = self._inside_pack(below)
        packs = [] if packed or not self.path.is_dir() else [name for name in self._names() if name.endswith(SUFFIX)]
        if packed is None and (below or not packs):
            yield self.path
            return
        with tempfile.TemporaryDirectory(prefix="privbench-") as view:
            if packed is None:
                self._link(Path(view), everything=everything)
            for name in packs:
                self._pack(name).unpack(Path(view, name), everything=everything)
            if packed is not None:
                home = Path(view, below.removesuffix(packed[1]))
                packed[0].unpack(home, packed[1], everything=everything)
            try:
                yield Path(view)
            except UserError as error:
                raise type(error)(str(error).replace(view, str(self))) from None

    def _link(self, view: Path, *, everything: bool) -> None:
        """Links the files that lie beside packs into a view."""
        for name in self._names():
            if not name.endswith(SUFFIX) and (everything or is_table_row(name)):
                (view / name).parent.mkdir(parents=True, exist_ok=True)
                (view / name).symlink_to((self.path / name).absolute())

    def publish(self, case: Case, *, replace: bool = False) -> None:
        """Nothing is left to do: the case lies where it belongs."""

    def write(self, files: Mapping[str, bytes]) -> None:
        """As of `Store`."""
        packs: dict[PackStore, dict[str, bytes]] = {}
        for name, content in files.items():
            if (packed := self._inside_pack(name)) is not None:
                packs.setdefault(packed[0], {})[packed[1]] = content
            else:
                atomic_write(self.path / name, content)
        for pack, inside in packs.items():
            pack.write(inside)

    def forget_failure(self, case: Case) -> None:
        """As of `Store`.

        Raises:
            StoreError: The folder is read-only.
        """
        CaseFolder(self.path, case).forget_failure()
