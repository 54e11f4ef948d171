"""Finished cases of one store: their records, and the folder in which they lie with nothing else."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import overload

from privbench.analysis.damaged import sound_view
from privbench.analysis.leaderboard import read_record
from privbench.core import Record
from privbench.core.labels import attack_label, defense_label, guarantee_text
from privbench.store.base import Store
from privbench.store.case_folder import repeatable
from privbench.store.layout import RECORD, find_records, find_results

__all__ = ["CaseSet"]


@dataclass(frozen=True, eq=False)
class CaseSet(Sequence[Record]):
    """Finished cases, in order; those of a whole store are read when they are asked for.

    Attributes:
        place: The store that their folders lie in.
        chosen: The name of each one's folder in the store, and its record; None: all cases of the store.
        skip_damaged: Whether damaged files of the store are left out; they are errors else.
    """

    place: Store
    chosen: tuple[tuple[str, Record], ...] | None = field(default=None, repr=False)
    skip_damaged: bool = False

    @cached_property
    def _cases(self) -> tuple[tuple[str, Record], ...]:
        if self.chosen is not None:
            return self.chosen
        with self._sound() as (folder, _):
            paths = find_records(folder)
            return tuple((path.parent.relative_to(folder).as_posix(), read_record(path)) for path in paths)

    @property
    def records(self) -> tuple[Record, ...]:
        """Their records.

        Raises:
            UserError: One cannot be read, or was changed.
        """
        return tuple(record for _, record in self._cases)

    @property
    def folders(self) -> tuple[str, ...]:
        """The name of each one's folder in the store."""
        return tuple(name for name, _ in self._cases)

    @property
    def damaged(self) -> tuple[str, ...]:
        """A line for each damaged file that is left out, where that was asked for."""
        with self._sound() as (_, lines):
            return lines

    @contextmanager
    def repeatable(self) -> Iterator[Sequence[tuple[str, Path, Record]]]:
        """Name, folder and record of each case, the record with what this machine needs to open its images again."""
        with self.place.open() as folder:
            yield [(name, folder / name, repeatable(folder / name, record)) for name, record in self._cases]

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        return self.records[index]

    @property
    def labels(self) -> list[str]:
        """What tables call each case: its defense, and where there are several attacks, its attack too."""
        attacks = [attack_label(record.case) for record in self.records]
        several = len(set(attacks)) > 1
        return [
            defense_label(record.case) + (f", {attack}" if several else "")
            for record, attack in zip(self.records, attacks, strict=True)
        ]

    @property
    def guarantees(self) -> dict[str, str]:
        """What each defense promises, by its name with parameters."""
        return {defense_label(record.case): guarantee_text(record.case.defense) for record in self.records}

    @contextmanager
    def _sound(self, *, everything: bool = False) -> Iterator[tuple[Path, tuple[str, ...]]]:
        """The folder of `_folder`, without damaged files where they are to be left out, and a line for each of these."""
        with (
            self._folder(everything=everything) as whole,
            sound_view(whole, skip=self.skip_damaged) as (folder, lines),
        ):
            yield folder, tuple(line.replace(str(whole), str(self.place)) for line in lines)

    @contextmanager
    def _folder(self, *, everything: bool = False) -> Iterator[Path]:
        """A folder with these cases and no others, and with utility reports and calibrations that lie beside them."""
        if self.chosen is None:
            with self.place.open(everything=everything) as folder:
                yield folder
            return
        with tempfile.TemporaryDirectory(prefix="privbench-") as name, self.place.open(everything=everything) as folder:
            copy = Path(name)
            for path in find_results(folder):
                # A case's folder has other files that the record needs; whatever else is JSON stands for itself.
                if path.name != RECORD and path.parent == folder:
                    shutil.copy(path, copy / path.name)
            for number, below in enumerate(self.folders):
                # Two folders of one name, from different places, are two measurements.
                shutil.copytree(folder / below, copy / f"{number}" / Path(below).name)
            yield copy
