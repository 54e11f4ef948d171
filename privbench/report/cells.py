"""The cells of the report's leaderboard: what a case is called, its numbers as text, and what they are sorted by."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from privbench.core import Case, FailedCase, Interval, Record
from privbench.core.labels import update_words

__all__ = [
    "BETWEEN",
    "CHECKED",
    "MODEL",
    "Cell",
    "Column",
    "Pixels",
    "Presentation",
    "between",
    "bounds",
    "cells",
    "columns",
    "number",
    "text",
]

Pixels = NDArray[np.uint8]
"""One image, `[height, width, 3]`."""

BETWEEN = "PSNR stands"
MODEL = "model"
EXPLAINED = "explained"
CHECKED = "checked"
_ABSENT = "n/a"


@dataclass(frozen=True)
class Presentation:
    """Names, numbers as text, and drawings, which the tier above has.

    Attributes:
        defense: What to call the defense of a case.
        attack: What to call its attack.
        metrics: The metrics to show, and their headings.
        number: A metric's value as text.
        comparison: Takes a comparison picture apart again: its content, how many images it shows, and their height; returns
            original, client's view and reconstruction of each, `[height, width, 3]` uint8.
        fronts: Draws privacy against accuracy from a leaderboard: title, SVG for a desk and for a phone, for each setting that
            has a utility report.
    """

    defense: Callable[[Case], str]
    attack: Callable[[Case], str]
    metrics: Mapping[str, str]
    number: Callable[[str, float | None], str]
    comparison: Callable[[bytes, int, int], Sequence[tuple[Pixels, Pixels, Pixels]]]
    fronts: Callable[[pd.DataFrame], Sequence[tuple[str, bytes, bytes]]]


@dataclass(frozen=True)
class Column:
    """A column of the leaderboard.

    Attributes:
        heading: Its heading.
        numeric: Whether it is sorted by number.
        note: What it means, for the heading's tooltip.
        css: Its cells' class, where they have one of their own.
    """

    heading: str
    numeric: bool = False
    note: str = ""
    css: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of the leaderboard.

    Attributes:
        text: What it says.
        value: What it is sorted by; empty cells come last.
        small: A second line.
    """

    text: str
    value: str
    small: str = ""


def columns(presentation: Presentation, used: Sequence[Mapping[str, Cell]]) -> list[Column]:
    """The columns that any of the rows has."""
    headings = {heading for row in used for heading in row}
    metrics = [
        Column(heading, numeric=True, note="mean and 95 % bootstrap interval") for heading in presentation.metrics.values()
    ]
    known = [
        Column("defense", note="parameters that are not at their default are shown"),
        Column("attack", note="parameters that are not at their default are shown"),
        Column("adversary", note="what the attacker knows of the defense"),
        Column("data"),
        Column(MODEL),
        Column("n", numeric=True, note="number of images, those on which the attack failed included"),
        *metrics,
        Column(BETWEEN, note="between which of the pictures that nobody reconstructed the mean PSNR stands", css="between"),
        Column(
            EXPLAINED, numeric=True, note="share of the observed update that the reconstruction makes again, 1 is all of it"
        ),
        Column("accuracy", numeric=True, note="of the victim on its test set: measured under the defense, or of its card"),
        Column("s/image", numeric=True, note="wall time of the attack, seconds per image"),
        Column(CHECKED, note="verified: computed again by privbench verify; reported: by whoever handed it in"),
        Column("flags", note="their meaning is below", css="flags"),
    ]
    return [column for column in known if column.heading in headings]


def cells(
    row: Mapping[str, Any], case: Case, record: Record | None, failure: FailedCase | None, presentation: Presentation
) -> dict[str, Cell]:
    """A row of the leaderboard, by heading, without the columns that not every page has."""
    sent = [f"batch {case.batch_size}"] * (case.batch_size > 1) + update_words(row["local"], row["trains"], row["server"])
    what = ", ".join([f"{case.data.split} {_ranges(case.data.indices)}", *sent])
    found = {
        "defense": _parts(presentation.defense(case)),
        "attack": _parts(presentation.attack(case)),
        "adversary": text(case.threat_model.adversary),
        "data": Cell(str(row["dataset"]), str(row["dataset"]), what),
        "n": Cell("0", "0"),
        "flags": Cell(f"failed: {failure.reason}", "failed") if failure else text(str(row["flags"])),
    }
    for name, heading in presentation.metrics.items():
        interval = record.summary.get(name) if record else None
        found[heading] = Cell(_ABSENT, "") if interval is None else _interval(presentation, name, interval)
    if (share := row.get(EXPLAINED)) is not None and not math.isnan(float(share)):
        found[EXPLAINED] = Cell(f"{float(share):.3f}", repr(float(share)))
    found["accuracy"], found["s/image"] = _accuracy(row), Cell(_ABSENT, "")
    if record is not None:
        seconds = float(row["seconds_per_image"])
        found |= {"n": number(len(record.images)), "s/image": Cell(f"{seconds:.1f}", repr(seconds))}
    return found


def _parts(label: str) -> Cell:
    """A component's name, and its parameters beneath."""
    name, _, parameters = label.partition(":")
    if "+" in label:
        name, parameters = label, ""
    return Cell(name, label, parameters.replace(",", ", "))


def text(content: str) -> Cell:
    """A cell that is sorted by what it says."""
    return Cell(content, content)


def number(value: int) -> Cell:
    """A cell with a whole number."""
    return Cell(str(value), str(value))


def _interval(presentation: Presentation, name: str, interval: Interval) -> Cell:
    return Cell(presentation.number(name, interval.mean), repr(interval.mean), bounds(presentation, name, interval))


def bounds(presentation: Presentation, name: str, interval: Interval | None) -> str:
    """The ends of an interval as text."""
    if interval is None:
        return _ABSENT
    return f"[{presentation.number(name, interval.low)}, {presentation.number(name, interval.high)}]"


def _accuracy(row: Mapping[str, Any]) -> Cell:
    """Measured by `privbench evaluate` where that was done, else of the victim's card."""
    for column, source in (("utility_accuracy", "measured"), ("accuracy", "card")):
        value = row.get(column)
        if value is not None and not math.isnan(float(value)):
            return Cell(f"{100 * float(value):.1f} %", repr(float(value)), source)
    return Cell(_ABSENT, "")


def between(found: object) -> str:
    """`noise..blur` in words."""
    if not isinstance(found, str):
        return ""
    less, _, more = found.partition("..")
    if less and more:
        return f"{less} to {more}"
    return f"above {less}" if less else f"below {more}"


def _ranges(indices: Sequence[int]) -> str:
    """`0-3, 7`: indices in their order, runs of consecutive ones joined."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
