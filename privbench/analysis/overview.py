"""Finished cases as the tables of a paper: defenses and adversaries down, attacks across, generated and never edited.

One table for each group of cases that compare, in Markdown or LaTeX; equal records give an equal page, byte for byte.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from privbench.analysis.cases import case_table
from privbench.analysis.flags import AT_LEAST, is_lower_bound
from privbench.core import ADVERSARIES
from privbench.core.labels import defense_labels, update_words
from privbench.store.files import atomic_write, refuse_folder

__all__ = [
    "HIGHEST",
    "Score",
    "Section",
    "highest_leakage",
    "latex_page",
    "markdown_page",
    "overview",
    "score_text",
    "sections",
    "write_overview",
]

_GROUP = ("model", "dataset", "split", "images", "labels", "model_mode")
"""Columns in which the rows of one table are alike."""
_UPDATE = ["batch_size", "local", "trains", "server"]
"""Columns that say what kind of update is sent."""
HIGHEST = "highest leakage"
"""Heading of the highest mean PSNR of a row."""


@dataclass(frozen=True)
class Score:
    """A mean PSNR in dB, with its 95 % interval where it has one.

    Attributes:
        mean: The mean.
        low: Of the interval.
        high: Of the interval.
        is_lower_bound: Whether a better attacker is known to get more.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    is_lower_bound: bool = False


@dataclass(frozen=True)
class Section:
    """One table.

    Attributes:
        cases: What its cases have in common.
        weights: The victim's weights, as a phrase.
        heads: Its headings.
        rows: Its rows, best defense first; by heading, empty text where there is nothing.
    """

    cases: str
    weights: str
    heads: tuple[str, ...]
    rows: tuple[Mapping[str, str | Score], ...]


def overview(folder: Path) -> str:
    """Every finished case below a folder, in Markdown.

    Args:
        folder: Where to look, subfolders included.

    Returns:
        For each group of cases with the same model, images and labels a table. A row is a kind of update, where the table has
        several; a defense on a victim, with the parameters in which the table's rows differ; and an adversary. For each kind
        of update defenses stand best first by their highest leakage over all attacks and adversaries. That is what a row has
        first: the highest mean PSNR in dB, the least mean LPIPS, the highest mean PSNR-patch in dB and the highest mean share
        of the update that a reconstruction explains. Then the attacks, `gradvit` first, other optimisation next, closed forms
        last: the mean PSNR with its 95 % interval, of several settings of an attack that with the highest mean. Then, where
        measured, the accuracy of the attacked victim, and that of a victim trained under the defense beside an undefended
        one's by the same recipe. A mark stands where a cell is a lower bound.

    Raises:
        UserError: As `case_table`.
    """
    return markdown_page(sections(case_table(folder)))


def write_overview(folder: Path, target: Path, *, intervals: bool = True) -> int:
    """Generates the page of a folder into a file, whole or not at all; how many cases it is about.

    Args:
        folder: Where to look, subfolders included.
        target: The file: LaTeX where its name ends in `.tex`, else Markdown.
        intervals: Whether scores have their 95 % intervals.

    Raises:
        UserError: As `overview`, or the file cannot be written.
    """
    rows = case_table(folder)
    refuse_folder(target)
    page = latex_page if target.suffix.lower() == ".tex" else markdown_page
    atomic_write(target, page(sections(rows), intervals=intervals).encode())
    return len(rows)


def sections(rows: pd.DataFrame) -> list[Section]:
    """The tables of all cases, as `case_table` has them."""
    return [_section(group) for _, group in rows.groupby(list(_GROUP), sort=True)]


def _section(rows: pd.DataFrame) -> Section:
    first = rows.iloc[0]
    images = first["images"].split(",")
    shown = f"{images[0]} to {images[-1]}" if len(images) > 2 else " and ".join(images)
    usual = rows["weights"].mode()[0]
    names = pd.Series(defense_labels(rows["defense_parts"]), index=rows.index)
    attacks = _attacks(rows)
    several = rows[_UPDATE].drop_duplicates().shape[0] > 1
    table: list[dict[str, str | Score]] = [
        {
            "update": _update(kind),
            "defense": f"`{names[part.index[0]]}`"
            + ("" if part["weights"].iloc[0] == usual else f" on `{part['weights'].iloc[0]}`"),
            "adversary": adversary,
            **highest_leakage(there),
            **{f"`{attack}`": _cell(there, attack) for attack in attacks},
            "accuracy": _accuracy(part),
            "trained under it / without (epochs)": _retrained(part),
        }
        for _, kind in rows.groupby(_UPDATE, sort=True)
        for part in sorted((part for _, part in kind.groupby([names, "weights"], sort=True)), key=_leakage)
        for adversary in ADVERSARIES
        if not (there := part[part["adversary"] == adversary]).empty
    ]
    return Section(
        cases=(
            f"`{first['model']}`, {first['dataset']} ({first['split']}), {len(images)} image{'s' if len(images) > 1 else ''} "
            f"({shown}){'' if several else f', {_update(rows)}'}, labels {first['labels']}, model in {first['model_mode']} mode"
        ),
        weights=f"`{usual}`" + ("" if (rows["weights"] == usual).all() else " where no others are named"),
        heads=tuple(head for head in table[0] if (several or head != "update") and any(row[head] for row in table)),
        rows=tuple(table),
    )


def _update(rows: pd.DataFrame) -> str:
    """The kind of update that some rows share, in words."""
    first = rows.iloc[0]
    words = update_words(first["local"], _code(first["trains"]), _code(first["server"]))
    return ", ".join((f"batches of {first['batch_size']}", *words))


def _leakage(rows: pd.DataFrame) -> float:
    return round(float(rows["psnr_mean"].max()), 1)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _number(cell: str | Score) -> float:
    """What a row is sorted by, as it is printed."""
    return round(cell.mean, 1) if isinstance(cell, Score) else float("inf")


def _attacks(rows: pd.DataFrame) -> list[str]:
    iterates = rows["steps"].groupby(rows["attack"]).max() > 0
    return sorted(iterates.index, key=lambda name: (name != "gradvit", not iterates[name], name))


def highest_leakage(rows: pd.DataFrame) -> dict[str, str | Score]:
    """The highest leakage over all attacks of some rows of a table of cases, by each measure under its heading."""
    leakiest = _leakiest(rows)
    explained = rows["explained"].dropna() if "explained" in rows else pd.Series(dtype=float)
    return {
        HIGHEST: Score(leakiest["psnr_mean"], is_lower_bound=_is_bound(leakiest)),
        "LPIPS": _over(rows, "lpips_mean", "min", 3),
        "PSNR-patch": _over(rows, "psnr_patch_mean", "max", 1),
        "explained": "" if explained.empty else f"{max(explained.max(), 0.0):.0%}",
    }


def _cell(rows: pd.DataFrame, attack: str) -> str | Score:
    rows = rows[rows["attack"] == attack]
    if rows.empty:
        return ""
    row = _leakiest(rows)
    return Score(row["psnr_mean"], row["psnr_ci_low"], row["psnr_ci_high"], _is_bound(row))


def _leakiest(rows: pd.DataFrame) -> Any:
    return rows.sort_values("psnr_mean", kind="stable").iloc[-1]


def _is_bound(row: Any) -> bool:
    return is_lower_bound(str(row.get("flags") or "").split())


def _over(rows: pd.DataFrame, column: str, how: Literal["max", "min"], digits: int) -> str:
    values = rows[column].dropna() if column in rows else pd.Series(dtype=float)
    return "" if values.empty else f"{values.agg(how):.{digits}f}"


def _accuracy(rows: pd.DataFrame) -> str:
    """Of the utility report, measured under the same weights and defense; else of the victim's card."""
    found = pd.to_numeric(rows["utility_accuracy"]).fillna(pd.to_numeric(rows["accuracy"])).dropna()
    return "" if found.empty else f"{found.iloc[0]:.3f}"


def _retrained(rows: pd.DataFrame) -> str:
    row: Any = rows.iloc[0]
    if pd.isna(row["retrained_accuracy"]):
        return ""
    low, high = row["retrained_seed_low"], row["retrained_seed_high"]
    seeds = "" if pd.isna(low) else f" ± {(high - low) / 2:.3f}"
    return f"{row['retrained_accuracy']:.3f}{seeds} / {row['retrained_undefended']:.3f} ({row['retrained_epochs']})"


def score_text(cell: str | Score, *, intervals: bool) -> str:
    """A cell as it is printed, its mark and, if asked for, its interval with it."""
    if isinstance(cell, str):
        return cell
    bound = AT_LEAST if cell.is_lower_bound else ""
    return f"{bound}{cell.mean:.1f}" + (f" [{cell.low:.1f}, {cell.high:.1f}]" if intervals and cell.low is not None else "")


# Markdown


def markdown_page(tables: Sequence[Section], *, intervals: bool = True) -> str:
    """The tables in Markdown."""
    return "\n\n".join(_markdown(table, intervals=intervals) for table in tables) + "\n"


def _markdown(table: Section, *, intervals: bool) -> str:
    cells = [[score_text(row[head], intervals=intervals) for head in table.heads] for row in table.rows]
    lines = [list(table.heads), ["---"] * len(table.heads), *cells]
    return f"{table.cases}; PSNR in dB. Weights: {table.weights}.\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


# LaTeX


def latex_page(tables: Sequence[Section], *, intervals: bool = True) -> str:
    """The tables in LaTeX, for the package booktabs: the least leakage of each column of scores in bold.

    Args:
        tables: What to write.
        intervals: Whether scores have their 95 % intervals, below the means.
    """
    head = "% Made by privbench leaderboard; needs \\usepackage{booktabs}.\n"
    return head + "\n".join(_latex(table, intervals=intervals) for table in tables)


def _latex(table: Section, *, intervals: bool) -> str:
    best = {head: min(_number(row[head]) for row in table.rows) for head in table.heads}

    def cell(row: Mapping[str, str | Score], head: str) -> str:
        found = row[head]
        if isinstance(found, str):
            return _escaped(found)
        mean = ("$\\geq$ " if found.is_lower_bound else "") + f"{found.mean:.1f}"
        mean = f"\\textbf{{{mean}}}" if _number(found) == best[head] else mean
        return mean + (f" {{\\scriptsize [{found.low:.1f}, {found.high:.1f}]}}" if intervals and found.low is not None else "")

    body = (" & ".join(cell(row, head) for head in table.heads) + " \\\\" for row in table.rows)
    return "\n".join(
        (
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{_escaped(table.cases)}; PSNR in dB. Weights: {_escaped(table.weights)}.}}",
            f"\\begin{{tabular}}{{l{'r' * (len(table.heads) - 1)}}}",
            "\\toprule",
            " & ".join(map(_escaped, table.heads)) + " \\\\",
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
            "",
        )
    )


_SPECIAL = {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def _escaped(text: str) -> str:
    """Text that LaTeX prints as it is; between backticks in typewriter."""
    special: Callable[[re.Match[str]], str] = lambda found: _SPECIAL[found[0]]  # noqa: E731
    escaped = re.sub(r"[\\~^&%$#_{}]", special, text)
    return re.sub(r"`([^`]*)`", r"\\texttt{\1}", escaped)
