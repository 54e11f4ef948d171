"""The loss trace of a case: what the attack reported while it ran, step by step."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from privbench.core import UserError

__all__ = ["TraceRow", "mean_trace", "trace_csv"]

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


def mean_trace(path: Path) -> pd.DataFrame:
    """Reads a trace and takes the mean of each loss over the client batches that reported it.

    Args:
        path: A file that `trace_csv` made.

    Returns:
        Indexed by `step`, ascending: the column `phase` and one per loss, NaN where no batch reported a finite value. Empty
        where the attack reported nothing.

    Raises:
        UserError: The file cannot be read or is no trace.
    """
    try:
        rows = pd.read_csv(path, dtype={"phase": str}, keep_default_na=False, na_values=[""])
        losses = rows.drop(columns=["batch", "step", "phase"]).astype(float)
        steps = rows["step"].astype(int)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"cannot read the loss trace {path}: {reason}; compute the case again with --force") from None
    means = losses.where(np.isfinite(losses)).groupby(steps).mean().dropna(axis="columns", how="all")
    means.insert(0, "phase", rows["phase"].fillna("").groupby(steps).first())
    return means
