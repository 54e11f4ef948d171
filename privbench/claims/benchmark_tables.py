"""Comparisons of claims whose sides are rows of a CSV file that a benchmark wrote: features, federations, condition numbers.

Rows of the two sides are paired by a column: an image, or a seed. Over images the interval is the bootstrap's, over a few seeds
Student's.
"""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from privbench.core import Interval, UserError
from privbench.scoring import paired_difference, student_interval

__all__ = ["SEEDS", "ClaimPart", "TableComparison", "TableSide", "table_difference"]

SEEDS = 3
"""Fewer training runs decide nothing."""


class ClaimPart(BaseModel):
    """Base of everything in a file of claims."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class TableSide(ClaimPart):
    """Rows of the table."""

    rows: Mapping[str, str] = Field(min_length=1)
    """Column to what stands there, in every row of this side."""

    @property
    def text(self) -> str:
        """For a table."""
        return ", ".join(self.rows.values())

    @property
    def attack(self) -> tuple[str, ...]:
        """None: where there is one, its name is in a column."""
        return ()


class TableComparison(ClaimPart):
    """The claim that a column of some rows exceeds that of others by more than a margin."""

    name: str
    """What is compared, in a few words."""
    table: Path
    """The CSV file, as seen from the file of claims."""
    command: str
    """What writes it."""
    metric: str
    """The column."""
    pairs: str
    """The column by which rows are paired."""
    over: Literal["images", "seeds"]
    """What pairs are: images, at least sixteen of them for a verdict, or training runs, at least three."""
    scale: Literal["linear", "log10"] = "linear"
    """Whether values are compared, or their decimal logarithms: a difference of 1 is then a factor of ten."""
    unit: str = ""
    """Of the metric."""
    higher: TableSide
    """The side whose values the claim says to be higher."""
    lower: TableSide
    """The other side."""
    margin: float = 0.0
    """By how much, in units of the metric; below 0: by how much it may be lower at most."""
    attacker: Literal["unaware", "aware"] | None = None
    """Whose attack it is, where a claim is tested against attackers who know the defense and such who do not."""

    @model_validator(mode="after")
    def _one_value_a_pair(self) -> Self:
        for side in (self.higher, self.lower):
            if self.pairs in side.rows or self.metric in side.rows:
                raise ValueError(f"the columns {self.pairs} and {self.metric} choose no rows; leave them out of `rows`")
        return self

    @property
    def ceiling(self) -> None:
        """No value is capped."""
        return None

    @property
    def measure(self) -> None:
        """It is of no utility report."""
        return None

    @property
    def smallest(self) -> int:
        """Fewer pairs decide nothing."""
        return SEEDS if self.over == "seeds" else 16


def table_difference(comparison: TableComparison, folder: Path) -> tuple[Interval, float, float] | None:
    """The difference of the two sides with its 95 % interval, and the mean of each; None without the file or a common pair.

    Args:
        comparison: What is compared.
        folder: From where its table is looked for.

    Raises:
        UserError: The file has not the columns, several rows of one pair, or a value that is no number.
    """
    path = folder / comparison.table
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    higher, lower = (_values(comparison, side, rows) for side in (comparison.higher, comparison.lower))
    pairs = [pair for pair in higher if pair in lower]
    if not pairs:
        return None
    above, below = ([values[pair] for pair in pairs] for values in (higher, lower))
    if comparison.over == "images":
        difference = paired_difference(below, above, seed=0).interval
    else:
        difference = student_interval([one - other for one, other in zip(above, below, strict=True)])
    return difference, fmean(above), fmean(below)


def _values(comparison: TableComparison, side: TableSide, rows: list[dict[str, str]]) -> dict[str, float]:
    wanted = {*side.rows, comparison.metric, comparison.pairs}
    missing = sorted(wanted - set(rows[0])) if rows else []
    if missing:
        raise UserError(f"{comparison.table} has no column {missing[0]}; accepted: {', '.join(rows[0])}")
    found: dict[str, float] = {}
    for row in rows:
        if any(row[column] != value for column, value in side.rows.items()):
            continue
        pair = row[comparison.pairs]
        if pair in found:
            raise UserError(
                f"{comparison.table} has several rows of {comparison.pairs} {pair} for {side.text}; choose one by more columns"
            )
        found[pair] = _number(comparison, row[comparison.metric])
    return found


def _number(comparison: TableComparison, text: str) -> float:
    try:
        value = float(text)
        value = value if comparison.scale == "linear" else math.log10(value)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        asked = "a number" if comparison.scale == "linear" else "a number above 0"
        raise UserError(f"{comparison.table} has '{text}' in column {comparison.metric}; accepted: {asked}")
    return value
