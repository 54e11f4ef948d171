"""The names of a case's files, and the walk that finds results below a folder."""

import os
from pathlib import Path

from privbench.core.errors import UserError

__all__ = [
    "CASE",
    "COMPARISON",
    "EVOLUTION",
    "FAILURE",
    "LOCK",
    "LOGS",
    "MEMBERS",
    "RECONSTRUCTIONS",
    "RECORD",
    "TEMPORARY",
    "TRACE",
    "WORK",
    "find_records",
    "find_results",
    "walk_results",
]

RECORD = "record.json"
FAILURE = "failure.json"
CASE = "case.yaml"
TRACE = "trace.csv"
COMPARISON = "comparison.png"
EVOLUTION = "comparison.webp"
"""The same as an animation, over the steps of the attack."""
RECONSTRUCTIONS = "reconstructions"
MEMBERS = "members"
"""The attacks of an ensemble: parts of its row, and no rows of their own."""
WORK = ".work"
"""What is kept between interruptions; a finished case no longer has it."""
LOCK = ".lock"
LOGS = "experiment-logs"
"""Beside the cases: what experiment trackers keep, whose JSON files are none of ours."""
TEMPORARY = ".privbench-"
"""How the names of files begin that are being written."""


def walk_results(folder: Path) -> list[Path]:
    """All JSON files below a folder in one walk, sorted by path: of finished and failed cases and of what is made of them.

    The parts of ensembles are left out, and so is what is kept of a case in progress and what trackers keep.

    Raises:
        UserError: There is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give one that `privbench run --output` wrote to")
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in {LOGS, MEMBERS, WORK, RECONSTRUCTIONS}]
        if RECORD in folders:
            raise UserError(f"{Path(place, RECORD)} is a folder where a file is expected; move it away")
        found += [Path(place, name) for name in names if name.endswith(".json")]
    # As paths are sorted, at a tenth of the cost of comparing them.
    return sorted(found, key=lambda path: path.parts)


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
