"""Defenses beside a baseline on the same images, as a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from privbench.analysis.flags import marked
from privbench.analysis.score_text import METRICS
from privbench.core.labels import defense_label
from privbench.tables.layout import WIDE, add_numbers, breakable, new_table

if TYPE_CHECKING:
    from privbench.analysis.compare import Comparison

__all__ = ["comparisons_table"]


def comparisons_table(comparisons: "Sequence[Comparison]", metric: str, baseline: str, *, width: int = WIDE) -> Table:
    """One row per defense and attack: the paired difference from the baseline.

    Args:
        comparisons: What was compared.
        metric: Whose differences.
        baseline: The defense that they are from.
        width: Columns of the terminal; where there are few, attack, adversary and data share a cell, and so do difference and
            interval.
    """
    from privbench.analysis.compare import setting_notes
    from privbench.scoring import PAIRED_TEST

    table = new_table(f"{METRICS.get(metric, metric)}, difference from {baseline} on the same images; {PAIRED_TEST}")
    narrow = width < WIDE
    table.add_column("defense", overflow="fold", min_width=17)
    for heading in ["attack,\nadversary, data"] if narrow else ["attack", "adversary", "data"]:
        table.add_column(heading, no_wrap=narrow, overflow="fold")
    add_numbers(table, *(["difference, 95 % interval"] if narrow else ["difference", "95 % interval"]), "p", "p (Holm)", "n")
    for one, note in zip(comparisons, setting_notes(comparisons), strict=True):
        case, interval = one.record.case, one.difference.interval
        label = marked(defense_label(case), one.record.flags)
        data = Path(case.data.source).name + (f", {note}" if note else "")
        what = [case.attack.name, case.threat_model.adversary, data]
        value = [f"{interval.mean:+.3f}", f"[{interval.low:+.3f}, {interval.high:+.3f}]"]
        table.add_row(
            *([breakable(label), f"{what[0]}\n{what[1]}, {what[2]}"] if narrow else [label, *what]),
            *(["\n".join(value)] if narrow else value),
            f"{one.difference.p:.2g}",
            f"{one.p_corrected:.2g}",
            str(interval.n),
        )
    return table
