"""The leaderboard: one row per record, generated, never edited.

Equal records give an equal file, byte for byte: rows are sorted by content alone and numbers are written so that they read back
exactly. Nothing is dropped silently: a record that cannot be read is an error that names it.
"""

import csv
import io
from pathlib import Path
from typing import Any

import pandas as pd

from privbench.analysis.reference_columns import ReferenceScores
from privbench.analysis.rows import failed_row, record_row
from privbench.analysis.utility_columns import Retrained, best_reports, utility_columns
from privbench.core import (
    FailedCase,
    Record,
    UserError,
    UtilityReport,
)
from privbench.store.files import atomic_write, refuse_folder
from privbench.store.layout import FAILURE, RECORD, find_results

__all__ = ["leaderboard", "leaderboard_csv", "leaderboard_with_folders", "read_record", "require_ending", "write_leaderboard"]

_GROUP = ("model", "dataset", "split", "batch_size", "labels", "model_mode", "local", "trains", "server", "adversary")
"""Columns in which rows are alike that are ranked together."""
_COUNTS = (
    "accuracy_images",
    "steps",
    "trials",
    "failures",
    "utility_images",
    "retrained_epochs",
    "retrained_images",
    "retrained_seeds",
    "identified_of",
)


def leaderboard(folder: Path) -> pd.DataFrame:
    """Reads every record below a folder.

    Args:
        folder: Where to look, subfolders included.

    Returns:
        One row per record, best defense first within each group of model, data, kind of update and threat model: by mean PSNR,
        ascending, and then by case. `rank` counts within the group; equal means share a rank. A case that could not be
        computed is a row without scores, last in its group, whose column `failure` says why. A case that was computed in two
        places (the reference results and one's own, say) has two rows: they are two measurements.

    Raises:
        UserError: There is no record, or one cannot be read.
    """
    return leaderboard_with_folders(folder).drop(columns="folder")


def leaderboard_with_folders(folder: Path) -> pd.DataFrame:
    """The leaderboard, and in a last column `folder` where each case lies, a `Path`.

    Raises:
        UserError: As `leaderboard`.
    """
    # The name and the folder of each of many thousand paths are asked once.
    files = [(path.name, path) for path in find_results(folder)]
    found = [UtilityReport.load(path) for name, path in files if name.startswith("utility--")]
    others = [path for name, path in files if name not in {RECORD, FAILURE}]
    reports, retrained, references = best_reports(found), Retrained(found), ReferenceScores(others)
    records = [(path.parent, path) for name, path in files if name == RECORD]
    # One at a time: a row is small, a record is not.
    measured = [
        {
            **record_row(record),
            **utility_columns(record.case, reports),
            **retrained.columns(record.case),
            **references.columns(record),
            "failure": None,
            "folder": place,
        }
        for place, record in ((place, read_record(path)) for place, path in records)
    ]
    done = {place for place, _ in records}
    failed = [
        {**failed_row(FailedCase.load(path)), "folder": path.parent}
        for name, path in files
        if name == FAILURE and path.parent not in done
    ]
    rows = pd.DataFrame([*measured, *failed])
    # Columns of metrics that only some records have come last in the order of appearance, which the paths decide; sort them.
    fixed = [name for name in rows.columns if not _is_score(name)]
    scores = sorted((name for name in rows.columns if _is_score(name)), key=_score_order)
    head = fixed.index("label_accuracy")
    rows = rows[[*fixed[:head], *scores, *fixed[head:]]]
    order = [*_GROUP, "psnr_mean", "case", "seconds_per_image"]
    rows = rows.sort_values(order, kind="stable", ignore_index=True, na_position="last")
    rows.insert(0, "rank", rows.groupby(list(_GROUP), sort=False)["psnr_mean"].rank(method="min").astype("Int64"))
    return rows.astype(dict.fromkeys(_COUNTS, "Int64"))


def leaderboard_csv(rows: pd.DataFrame) -> str:
    """The leaderboard as CSV: floats as Python writes them, Unix line ends, empty cells where there is no value.

    Text that a spreadsheet would take for a formula stands behind an apostrophe.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows.columns)
    # pandas writes the same bytes in one and a half times as long.
    writer.writerows(zip(*(_cells(rows[name]) for name in rows.columns), strict=True))
    return text.getvalue()


def _cells(column: pd.Series) -> list[Any]:
    cells = column.astype(object).where(column.notna(), "").tolist()
    # Numbers are no formulas; few texts differ, and hardly any is one.
    if not pd.api.types.is_numeric_dtype(column) and any(_no_formula(cell) != cell for cell in set(cells)):
        return [_no_formula(cell) for cell in cells]
    return cells


def _no_formula(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


_FORMATS = {".csv": "a row per case", ".md": "tables in Markdown", ".tex": "tables in LaTeX, for booktabs"}


def require_ending(target: Path) -> None:
    """Refuses a file whose ending does not say what a leaderboard is to be.

    Raises:
        UserError: It does not.
    """
    if target.suffix.lower() not in _FORMATS:
        accepted = ", ".join(f"{name} ({what})" for name, what in _FORMATS.items())
        raise UserError(f"cannot tell what {target} is to be; accepted endings: {accepted}; `privbench report` makes HTML")


def write_leaderboard(folder: Path, target: Path) -> pd.DataFrame:
    """Generates the leaderboard of a folder into a file, whole or not at all.

    Raises:
        UserError: As `leaderboard`, or the file cannot be written.
    """
    rows = leaderboard(folder)
    refuse_folder(target)
    atomic_write(target, leaderboard_csv(rows).encode())
    return rows


def read_record(path: Path) -> Record:
    """One record.

    Raises:
        UserError: It cannot be read, or was changed.
    """
    record = Record.load(path)
    identity = record.case.identity
    if record.case_id != identity:
        raise UserError(f"{path} was changed: its case has the hash {identity}, not {record.case_id}; compute it again")
    return record


_FIRST = ("psnr", "ssim", "lpips", "psnr_patch", "ssim_patch")
_ENDINGS = ("_mean", "_ci_low", "_ci_high")


def _is_score(column: str) -> bool:
    return column.endswith(_ENDINGS)


def _score_order(column: str) -> tuple[int, str, int]:
    ending = next(ending for ending in _ENDINGS if column.endswith(ending))
    metric = column.removesuffix(ending)
    return (_FIRST.index(metric) if metric in _FIRST else len(_FIRST), metric, _ENDINGS.index(ending))
