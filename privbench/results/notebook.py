"""Finished cases as a notebook shows them: scores with their intervals, and pictures."""

import base64
import html
from collections.abc import Sequence

from privbench.analysis.score_text import METRICS, interval_text
from privbench.core import Record
from privbench.core.labels import attack_label, defense_label

__all__ = ["PICTURES", "results_html"]

PICTURES = 4
"""So many pictures of single cases at most are shown."""
_ROWS = 40


def results_html(records: Sequence[Record], pictures: Sequence[bytes]) -> str:
    """A table with a row for each case, 40 at most, and the pictures below it.

    Args:
        records: The cases.
        pictures: PNG files.
    """
    heads = ("defense", "attack", "adversary", "n", *METRICS.values())
    rows = []
    for record in records[:_ROWS]:
        case = record.case
        cells = (
            defense_label(case),
            attack_label(case),
            case.threat_model.adversary,
            str(len(record.images)),
            *(interval_text(name, record.summary.get(name)) for name in METRICS),
        )
        rows.append("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
    more = len(records) - _ROWS
    note = f"<p>and {more} more cases: .leaderboard() has all</p>" if more > 0 else ""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"
    named = ", ".join(dict.fromkeys(defense_label(record.case) for record in records))
    alt = html.escape(f"originals, what the client fed its model, and reconstructions under {named}")
    encoded = (base64.b64encode(picture).decode("ascii") for picture in pictures)
    return table + "".join(f'<img alt="{alt}" src="data:image/png;base64,{data}">' for data in encoded)
