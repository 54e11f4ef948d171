"""The one protocol behind which results lie: a folder, a URL and a packed file are three stores.

Cases are always computed in a folder of this machine; `publish` brings what came of one to where the store is. What reads many
results opens the store as a folder, which is the folder itself or a copy.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import Protocol

from pydantic import ValidationError

from privbench.core import Case, FailedCase, Record
from privbench.store.layout import FAILURE, MEMBERS, RECONSTRUCTIONS, RECORD

__all__ = ["Store", "is_table_row", "parsed"]


class Store(Protocol):
    """A place of results. Names are paths below it with slashes, such as `CASE/record.json`; `str` is what a user calls it."""

    @property
    def working(self) -> Path:
        """The folder of this machine in which cases of this store are computed."""
        ...

    def __truediv__(self, name: str) -> str:
        """What to call something below the store."""
        ...

    def check(self) -> None:
        """Refuses a store that cannot be written, before anything is computed.

        Raises:
            StoreError: It cannot be written or reached.
        """
        ...

    def find(self, case: Case) -> Record | FailedCase | None:
        """What is published of this very case: its record, or why it failed; None where neither can be read.

        Raises:
            StoreError: The store cannot be read.
        """
        ...

    def list(self) -> Sequence[str]:
        """The names of all files, sorted, without those that are being written.

        Raises:
            UserError: The store cannot be read.
        """
        ...

    def read(self, name: str) -> bytes | None:
        """One file; None where there is none.

        Raises:
            UserError: The store cannot be read.
        """
        ...

    def open(self, below: str = "", *, everything: bool = True) -> AbstractContextManager[Path]:
        """The store as a folder for as long as the block lasts; errors inside it name the store, not the copy.

        Args:
            below: The folder in the store to which a copy is limited, such as a case's.
            everything: Pictures, traces and parts of ensembles too; without them a copy has the JSON files alone.

        Raises:
            UserError: The store cannot be read.
        """
        ...

    def is_running(self, name: str) -> bool:
        """Whether a process of this machine computes the case of a folder now."""
        ...

    def publish(self, case: Case, *, replace: bool = False) -> None:
        """Brings what came of a case in the working folder to the store: all files of a finished case, its record last.

        Where somebody else's record is there already, results are equal and that one stays.

        Args:
            case: Finished or failed in the working folder; else nothing happens.
            replace: Let this record take the place of another.

        Raises:
            StoreError: The store cannot be written.
        """
        ...

    def write(self, files: Mapping[str, bytes]) -> None:
        """Writes files, each whole or not at all.

        Raises:
            StoreError: The store cannot be written.
        """
        ...

    def forget_failure(self, case: Case) -> None:
        """Lets a failed case be tried again.

        Raises:
            StoreError: The store cannot be written.
        """
        ...


def is_table_row(name: str) -> bool:
    """Whether a file is one that leaderboards are made of: JSON, and no part of an ensemble."""
    return name.endswith(".json") and not {MEMBERS, RECONSTRUCTIONS} & set(PurePosixPath(name).parts)


def parsed(store: Store, case: Case) -> Record | FailedCase | None:
    """`Store.find` by reading two files: the record of this very case, or its failure."""
    for name, kind in ((RECORD, Record), (FAILURE, FailedCase)):
        if (content := store.read(f"{case.folder}/{name}")) is not None:
            try:
                found = kind.model_validate_json(content)
            except ValidationError:
                continue
            if found.case_id == found.case.identity == case.identity:
                return found
    return None
