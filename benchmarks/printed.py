"""A small table, printed row by row while it is measured, and written as CSV at the end."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["print_table"]


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], output: Path | None) -> None:
    """Prints rows as they come; with a path, writes them below the header too."""
    table = [header]
    for row in rows:
        table.append(row)
        print(" | ".join(row), flush=True)
    if output is not None:
        with output.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(table)
