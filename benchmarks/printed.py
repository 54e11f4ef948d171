"""A small table, printed row by row while it is measured, and written as CSV; one that is there already, to go on with."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from privbench.core import UserError

__all__ = ["print_table", "rows_there"]


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], output: Path | None) -> None:
    """Prints rows as they come; with a path, writes each below the header too, so that an error later on loses none."""
    table = [header]
    for row in rows:
        table.append(row)
        print(" | ".join(row), flush=True)
        if output is not None:
            with output.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows(table)


def rows_there(file: Path, header: Sequence[str]) -> list[list[str]]:
    """The rows below the header of a CSV file; none where there is no file.

    Raises:
        UserError: The file has other columns.
    """
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as opened:
        found, *rows = list(csv.reader(opened)) or [[]]
    if found != list(header):
        raise UserError(
            f"{file} has the columns {','.join(found)[:200]}, and this run writes {','.join(header)}; name another file, or "
            "give the options that it was made with"
        )
    return rows
