"""Finished cases as the tables of a paper: defenses down, attacks and adversaries across, generated and never edited.

One Markdown table for each group of cases that compare; equal records give an equal page, byte for byte.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from privbench.analysis.cases import case_table
from privbench.analysis.flags import is_lower_bound
from privbench.core.labels import defense_labels
from privbench.store.files import atomic_write, refuse_folder

__all__ = ["overview", "write_overview"]

_GROUP = ("model", "dataset", "split", "images", "batch_size", "labels", "model_mode")
"""Columns in which the rows of one table are alike."""
_AT_LEAST = "≥ "
"""Before a score that is a lower bound."""
_ADVERSARIES = ("unaware", "aware", "oracle")


def overview(folder: Path) -> str:
    """Every finished case below a folder.

    Args:
        folder: Where to look, subfolders included.

    Returns:
        Markdown: for each group of cases with the same model, images, batches and labels a table. A row is a defense on a
        victim, with the parameters in which the table's rows differ, best first by its worst case, the highest mean of the
        row; a cell is the mean PSNR in dB with its 95 % interval, of several settings of an attack that with the highest mean,
        with a mark where it is a lower bound.
        Then, where measured, the row's highest mean PSNR-patch and least mean LPIPS, the accuracy of the attacked victim, and
        that of a victim trained under the defense beside an undefended one's by the same recipe.

    Raises:
        UserError: As `case_table`.
    """
    return _page(case_table(folder))


def write_overview(folder: Path, target: Path) -> int:
    """Generates the page of a folder into a file, whole or not at all; how many cases it is about.

    Raises:
        UserError: As `overview`, or the file cannot be written.
    """
    rows = case_table(folder)
    refuse_folder(target)
    atomic_write(target, _page(rows).encode())
    return len(rows)


def _page(rows: pd.DataFrame) -> str:
    groups = rows.groupby(list(_GROUP), sort=True)
    return "\n\n".join(_section(group) for _, group in groups) + "\n"


def _section(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    images = first["images"].split(",")
    shown = f"{images[0]} to {images[-1]}" if len(images) > 2 else " and ".join(images)
    title = (
        f"`{first['model']}`, {first['dataset']} ({first['split']}), {len(images)} images ({shown}), batches of "
        f"{first['batch_size']}, labels {first['labels']}, model in {first['model_mode']} mode; PSNR in dB."
    )
    usual = rows["weights"].mode()[0]
    names = pd.Series(defense_labels(rows["defense_parts"]), index=rows.index)
    attacks = _attacks(rows)
    table = [
        {
            "defense": f"`{defense}`" + ("" if weights == usual else f" on `{weights}`"),
            "worst case": f"{_bound(_leakiest(part))}{part['psnr_mean'].max():.1f}",
            **{f"`{attack}`, {adversary}": _cell(part, attack, adversary) for attack, adversary in attacks},
            "PSNR-patch": _over(part, "psnr_patch_mean", "max", 1),
            "LPIPS": _over(part, "lpips_mean", "min", 3),
            "accuracy": _accuracy(part),
            "trained under it / without (epochs)": _retrained(part),
        }
        for (defense, weights), part in rows.groupby([names, "weights"], sort=True)
    ]
    table.sort(key=lambda row: float(row["worst case"].removeprefix(_AT_LEAST)))
    heads = [head for head in table[0] if any(row[head] for row in table)]
    lines = [heads, ["---"] * len(heads), *([row[head] for head in heads] for row in table)]
    others = "" if (rows["weights"] == usual).all() else " where no others are named"
    return f"{title} Weights: `{usual}`{others}.\n\n" + "\n".join(map(_line, lines))


def _attacks(rows: pd.DataFrame) -> list[tuple[str, str]]:
    there = set(zip(rows["attack"], rows["adversary"], strict=True))
    return [
        (name, adversary)
        for name in sorted(rows["attack"].unique())
        for adversary in _ADVERSARIES
        if (name, adversary) in there
    ]


def _cell(rows: pd.DataFrame, attack: str, adversary: str) -> str:
    rows = rows[(rows["attack"] == attack) & (rows["adversary"] == adversary)]
    if rows.empty:
        return ""
    row = _leakiest(rows)
    return f"{_bound(row)}{row['psnr_mean']:.1f} [{row['psnr_ci_low']:.1f}, {row['psnr_ci_high']:.1f}]"


def _leakiest(rows: pd.DataFrame) -> Any:
    return rows.sort_values("psnr_mean", kind="stable").iloc[-1]


def _bound(row: Any) -> str:
    return _AT_LEAST if is_lower_bound(str(row.get("flags") or "").split()) else ""


def _over(rows: pd.DataFrame, column: str, how: Literal["max", "min"], digits: int) -> str:
    values = rows[column].dropna() if column in rows else pd.Series(dtype=float)
    return "" if values.empty else f"{values.agg(how):.{digits}f}"


def _accuracy(rows: pd.DataFrame) -> str:
    """Of the price, measured under the same weights and defense; else of the victim's card."""
    found = pd.to_numeric(rows["price_accuracy"]).fillna(pd.to_numeric(rows["accuracy"])).dropna()
    return "" if found.empty else f"{found.iloc[0]:.3f}"


def _retrained(rows: pd.DataFrame) -> str:
    row: Any = rows.iloc[0]
    if pd.isna(row["retrained_accuracy"]):
        return ""
    return f"{row['retrained_accuracy']:.3f} / {row['retrained_undefended']:.3f} ({row['retrained_epochs']})"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
