"""Results without what cannot be read: a view of a folder that leaves out damaged records and other damaged files, by name."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from privbench.analysis.leaderboard import read_record
from privbench.analysis.reference_files import IDENTIFICATION
from privbench.core import Calibration, FailedCase, Identification, UserError, UtilityReport
from privbench.store.layout import FAILURE, LOGS, MEMBERS, RECORD, WORK

__all__ = ["sound_view"]

_READERS: tuple[tuple[Callable[[str], bool], Callable[[Path], object]], ...] = (
    (lambda name: name == RECORD, read_record),
    (lambda name: name == FAILURE, FailedCase.load),
    (lambda name: name == IDENTIFICATION, Identification.load),
    (lambda name: name.startswith("utility--") and name.endswith(".json"), UtilityReport.load),
    (lambda name: name.startswith("calibration--") and name.endswith(".json"), Calibration.load),
)


@contextmanager
def sound_view(folder: Path, *, skip: bool = True) -> Iterator[tuple[Path, list[str]]]:
    """A folder as it is, or where files in it are damaged, a view of it without them.

    Args:
        folder: Results, subfolders included.
        skip: False looks at nothing, and gives the folder as it is.

    Yields:
        The folder to read instead, and one line for each damaged file. Of a damaged record its whole case is left out.
    """
    damaged = _damaged(folder) if skip else {}
    if not damaged:
        yield folder, []
        return
    left_out = {path.parent if path.name == RECORD else path for path in damaged}
    with tempfile.TemporaryDirectory(prefix="privbench-") as view:
        for place, folders, names in os.walk(folder):
            here = Path(place)
            folders[:] = [name for name in folders if here / name not in left_out]
            for name in names:
                if here / name not in left_out:
                    target = Path(view) / here.relative_to(folder) / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.symlink_to((here / name).absolute())
        try:
            yield Path(view), list(damaged.values())
        except UserError as error:
            raise type(error)(str(error).replace(view, str(folder))) from None


def _damaged(folder: Path) -> dict[Path, str]:
    """The damaged files, sorted by path, and what is wrong with each."""
    found: dict[Path, str] = {}
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in {LOGS, MEMBERS, WORK}]
        if RECORD in folders:
            found[Path(place, RECORD)] = f"{Path(place, RECORD)} is a folder"
        for name in names:
            read = next((read for is_one, read in _READERS if is_one(name)), None)
            if read is not None:
                try:
                    read(Path(place, name))
                except UserError as error:
                    found[Path(place, name)] = str(error)
    return dict(sorted(found.items()))
