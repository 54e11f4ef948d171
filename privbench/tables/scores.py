"""Scores of pictures that no case of ours made, as tables: those of another tool, and those that nobody reconstructed."""

from typing import TYPE_CHECKING

from rich.table import Table

from privbench.analysis.score_text import METRICS, bounds_text, interval_text, value_text
from privbench.core import Calibration
from privbench.tables.layout import new_table

if TYPE_CHECKING:
    from privbench.analysis.external import Scores

__all__ = ["calibration_table", "score_footnotes", "score_table"]


def score_table(scored: "Scores") -> Table:
    """One row per picture of another tool, their mean and its interval.

    Args:
        scored: The scores.
    """
    n = len(scored.names)
    table = new_table(f"{n} reconstructions, {scored.pixels} pixels")
    table.add_column("original")
    table.add_column("reconstruction")
    for heading in METRICS.values():
        table.add_column(heading, justify="right")
    for place, (name, other, scores) in enumerate(zip(scored.names, scored.matched, scored.scores, strict=True)):
        table.add_row(name, other, *(value_text(metric, scores.get(metric)) for metric in METRICS), end_section=place == n - 1)
    summary = {metric: scored.summary.get(metric) for metric in METRICS}
    means = (value_text(metric, interval.mean if interval else None) for metric, interval in summary.items())
    table.add_row(f"mean, n = {n}", "", *means, style="bold")
    table.add_row("95 % interval", "", *(bounds_text(metric, interval) for metric, interval in summary.items()))
    return table


def score_footnotes(scored: "Scores") -> list[str]:
    """What the reader of that table must know, one line each."""
    missing = [f"{METRICS[name]}: n/a, {reason}" for name, reason in scored.unavailable.items() if name in METRICS]
    return [*missing, *scored.remarks]


def calibration_table(calibration: Calibration) -> Table:
    """One row per picture that nobody reconstructed.

    Args:
        calibration: Their scores.
    """
    from privbench.scoring import CALIBRATION_ROWS

    n = len(calibration.data.indices)
    table = new_table(
        f"calibration, {calibration.data.source}, {calibration.image_size} pixels; mean [95 % interval] over n = {n}"
    )
    table.add_column("instead of a reconstruction")
    for heading in METRICS.values():
        table.add_column(heading, justify="right")
    for name, row in calibration.rows.items():
        label = f"{name}: {CALIBRATION_ROWS[name]}" if name in CALIBRATION_ROWS else name
        table.add_row(label, *(interval_text(metric, row.get(metric)) for metric in METRICS))
    return table
