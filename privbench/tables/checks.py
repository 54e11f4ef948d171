"""A record beside the same case computed again, as a table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from privbench.analysis.score_text import ABSENT
from privbench.core import Record
from privbench.tables.layout import new_table, setting_title

if TYPE_CHECKING:
    from privbench.runner.verify import Check

__all__ = ["checks_table"]


def checks_table(record: Record, checks: "Sequence[Check]", label: str) -> Table:
    """One row per metric: recorded, computed again, and whether that agrees.

    Args:
        record: The record that was verified.
        checks: What came out.
        label: What to call its defense.
    """
    from privbench.runner.verify import CAP

    table = new_table(setting_title(record, label))
    for heading in ("metric", "recorded", "now", "difference", "tolerance", ""):
        table.add_column(heading, justify="left" if heading in {"metric", ""} else "right")
    words = {True: "holds", False: "differs", None: ABSENT}
    for check in checks:
        difference = ABSENT if check.computed is None else f"{check.computed - check.recorded:+.4f}"
        both_high = check.metric.startswith("psnr") and min(check.recorded, check.computed or 0) > CAP
        table.add_row(
            check.metric,
            f"{check.recorded:.4f}",
            ABSENT if check.computed is None else f"{check.computed:.4f}",
            difference,
            f"both above {CAP:.0f}" if both_high else f"{check.tolerance:.3g}",
            words[check.holds],
        )
    return table
