"""The loss trace of a case: what the attack reported while it ran, step by step."""

import csv
import io
from collections.abc import Iterable

__all__ = ["TraceRow", "trace_csv"]

TraceRow = tuple[int, str, dict[str, float]]
"""Step, phase, and the losses by name."""


def trace_csv(batches: Iterable[Iterable[TraceRow]]) -> str:
    """The trace as CSV, floats as Python writes them, so that they read back exactly.

    Args:
        batches: The reports of each client batch, in order.

    Returns:
        Columns batch, step, phase and one per loss in order of appearance; a cell is empty where a loss was not reported.
    """
    rows = [(number, *row) for number, batch in enumerate(batches) for row in batch]
    names = list(dict.fromkeys(name for *_, losses in rows for name in losses))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["batch", "step", "phase", *names])
    for number, step, phase, losses in rows:
        writer.writerow([number, step, phase, *(repr(losses[name]) if name in losses else "" for name in names)])
    return buffer.getvalue()
