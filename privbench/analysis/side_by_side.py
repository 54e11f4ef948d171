"""The same defenses at several image sizes, side by side: the highest leakage over all attacks, in Markdown."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from privbench.analysis.cases import case_table
from privbench.analysis.overview import HIGHEST, highest_leakage, score_text
from privbench.core import ADVERSARIES
from privbench.core.labels import defense_labels

__all__ = ["side_by_side"]

_SETTING = ("model", "dataset", "image_size")
_ADVERSARIES: Sequence[str] = ADVERSARIES


def side_by_side(folders: Sequence[Path]) -> str:
    """Single images and whole gradients below several folders, one pair of columns for each size of images.

    Args:
        folders: Where to look, subfolders included.

    Returns:
        One row for each defense and adversary that was measured at two sizes at least: the highest mean PSNR in dB over all
        attacks, and the least mean LPIPS. A size at which one defense alone was measured is left out. Of several models and
        data sets of one size that with most defenses speaks, with the weights of most of its cases for each defense. A mark
        stands before a lower bound.

    Raises:
        UserError: As `case_table`.
    """
    rows = pd.concat([case_table(folder) for folder in folders], ignore_index=True)
    rows = rows[(rows["batch_size"] == 1) & (rows[["local", "trains", "server"]] == "").all(axis=1)]
    rows = rows.assign(label=defense_labels(rows["defense_parts"]))
    chosen = [_widest(part) for _, part in rows.groupby("image_size", sort=True) if len(set(part["label"])) > 1]
    heads = [f"{part['dataset'].iloc[0]}, {part['image_size'].iloc[0]} px" for part in chosen]
    keys: set[tuple[str, str]] = set().union(*(zip(part["label"], part["adversary"], strict=True) for part in chosen))
    rows_of = {key: [part[(part["label"] == key[0]) & (part["adversary"] == key[1])] for part in chosen] for key in keys}
    shown = [key for key in keys if sum(not part.empty for part in rows_of[key]) > 1]
    shown.sort(key=lambda key: (_leakage(chosen[0], key[0]), key[0], _ADVERSARIES.index(key[1])))
    lines = [
        ["defense", "adversary", *(f"{measure}, {head}" for head in heads for measure in ("PSNR", "LPIPS"))],
        ["---"] * (2 + 2 * len(heads)),
        *([f"`{key[0]}`", key[1], *(text for part in rows_of[key] for text in _cells(part))] for key in shown),
    ]
    models = "; ".join(f"{head}: `{part['model'].iloc[0]}`" for head, part in zip(heads, chosen, strict=True))
    return f"{models}; PSNR in dB.\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _widest(rows: pd.DataFrame) -> pd.DataFrame:
    """The model and data set with most defenses, each defense on the weights that most of its cases have."""
    settings = [part for _, part in rows.groupby(list(_SETTING), sort=True)]
    widest = max(settings, key=lambda part: part["label"].nunique())
    usual = widest.groupby("label")["weights"].transform(lambda weights: weights.mode()[0])
    return widest[widest["weights"] == usual]


def _leakage(rows: pd.DataFrame, label: str) -> float:
    return round(float(rows.loc[rows["label"] == label, "psnr_mean"].max()), 1)


def _cells(rows: pd.DataFrame) -> tuple[str, str]:
    if rows.empty:
        return "", ""
    highest = highest_leakage(rows)
    return score_text(highest[HIGHEST], intervals=False), score_text(highest["LPIPS"], intervals=False)
