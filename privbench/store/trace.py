"""The trace of a case: the losses that the attack reported, step by step, and the PSNR of the guesses that it showed."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from privbench.core import UserError
from privbench.scoring import from_uint8, pair, psnr

__all__ = ["SCORE", "TraceRow", "mean_trace", "read_trace", "scored_trace", "trace_csv"]

TraceRow = tuple[int, str, dict[str, float]]
"""Step, phase, and the losses by name."""


SCORE = "psnr"
"""The column of the trace that is no loss: it was scored after the attack, which never sees it."""


def scored_trace(reported: Iterable[TraceRow], shown: Mapping[int, Tensor], truth: Tensor) -> tuple[TraceRow, ...]:
    """The trace of one client batch with the PSNR of each guess that the attack showed; to be called once it is over.

    Args:
        reported: What the attack reported.
        shown: Step to guess, `[batch, 3, height, width]` uint8.
        truth: `[batch, 3, height, width]` in [0, 1], the private images.

    Returns:
        The same rows; those whose step was shown have the mean PSNR in dB over the batch, each guess paired anew.
    """
    rows = []
    for step, phase, losses in reported:
        if step in shown:
            guess = from_uint8(shown[step].cpu())
            losses = {**losses, SCORE: float(psnr(guess[pair(guess, truth)], truth).mean())}
        rows.append((step, phase, losses))
    return tuple(rows)


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


def read_trace(path: Path) -> pd.DataFrame:
    """Reads a trace.

    Args:
        path: A file that `trace_csv` made.

    Returns:
        Columns `batch`, `step`, `phase` and one per loss; NaN where a loss was not reported or is not finite.

    Raises:
        UserError: The file cannot be read or is no trace.
    """
    try:
        rows = pd.read_csv(path, dtype={"phase": str}, keep_default_na=False, na_values=[""])
        losses = rows.drop(columns=["batch", "step", "phase"]).astype(float)
        numbers = rows[["batch", "step"]].astype(int)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"cannot read the loss trace {path}: {reason}; compute the case again with --force") from None
    return pd.concat([numbers, rows["phase"].fillna(""), losses.where(np.isfinite(losses))], axis=1)


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
    rows = read_trace(path)
    losses = rows.drop(columns=["batch", "step", "phase"])
    means = losses.groupby(rows["step"]).mean().dropna(axis="columns", how="all")
    means.insert(0, "phase", rows["phase"].groupby(rows["step"]).first())
    return means
