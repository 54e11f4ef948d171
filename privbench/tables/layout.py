"""The style of all tables of a terminal, and what several of them say."""

from statistics import fmean

from rich import box
from rich.table import Table

from privbench.core import Record
from privbench.core.labels import update_words

__all__ = ["WIDE", "add_numbers", "breakable", "mean_seconds", "new_table", "setting_title"]

WIDE = 110
"""Columns of a terminal on which every value has a column of its own."""


def new_table(title: str) -> Table:
    """An empty table in the style of all."""
    return Table(
        title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False, collapse_padding=True
    )


def add_numbers(table: Table, *headings: str) -> None:
    """Adds columns of numbers, which are never cut: as wide as the longest word of their heading, they break between words."""
    for heading in headings:
        table.add_column(heading, justify="right", overflow="fold", min_width=max(map(len, heading.split())))


def breakable(label: str) -> str:
    """The label of a defense that may be broken between its parameters."""
    return label.replace(":", ": ", 1).replace(",", ", ")


def setting_title(record: Record, label: str | None) -> str:
    """What was measured, by which attack, under which threat model.

    Args:
        record: A finished case.
        label: What to call its defense; None to leave it out.
    """
    case = record.case
    words = [label, case.attack.name, f"{case.threat_model.adversary} adversary", f"labels {case.threat_model.labels}"]
    words += [case.victim.model.name, f"batch {case.batch_size}"]
    words += update_words(*("" if part is None else str(part) for part in (case.local, case.trains, case.server)))
    return ", ".join(word for word in words if word)


def mean_seconds(record: Record) -> float:
    """Seconds of the attack, the mean over the images."""
    return fmean(image.seconds for image in record.images)
