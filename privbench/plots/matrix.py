"""Every defense against every attack: a heat map, as the field's tables have it."""

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from privbench.core import ADVERSARIES, UserError
from privbench.drawing.heat import draw_heat
from privbench.drawing.style import PAPER, Paper, add_caption, metric_label, styled
from privbench.plots.families import FAMILIES, defense_family
from privbench.plots.request import Drawn, FigureRequest
from privbench.plots.selection import SETTING, measured, one_setting, setting_text
from privbench.scoring import registered_metric

__all__ = ["draw", "matrix_figure", "matrix_points"]

_PSNR = (5.0, 40.0)
"""Limits of the colours of PSNR in dB: what is below is noise, and what is above is back."""
_FAMILIES = list(FAMILIES)


def matrix_points(rows: pd.DataFrame, *, metric: str = "psnr") -> pd.DataFrame:
    """The highest leakage of each defense under each attack and adversary, in the one setting with most of them.

    Args:
        rows: A table of cases.
        metric: Name of the leakage metric.

    Returns:
        `defense`, `attack`, `adversary`, `mean`, `low`, `high`, `n`, `settings` (how many settings of the defense the value is
        the highest of) and the columns of the setting; by family and name of the defense.

    Raises:
        UserError: Fewer than two defenses or attacks, or none has the metric.
    """
    chosen = one_setting(measured(rows, metric).assign(pair=rows["defense"] + rows["attack"]), SETTING, differ_in="pair")
    if chosen["defense"].nunique() < 2:
        raise UserError(
            "the matrix needs several defenses on the same images; make them with "
            "`privbench run --defense none,mjp --attack closed-form`, and the same with other attacks"
        )
    cell = ["defense", "attack", "adversary"]
    counts = chosen.groupby(cell)["defense_params"].nunique()
    higher = registered_metric(metric).higher_is_leakier
    points = chosen.sort_values("mean", ascending=not higher, kind="stable").drop_duplicates(cell)
    points = points.assign(
        settings=[int(counts[tuple(key)]) for key in points[cell].to_numpy()],
        family=[_FAMILIES.index(defense_family(name)) for name in points["defense"]],
        place=points["adversary"].map(ADVERSARIES.index),
    )
    points = points.sort_values(["family", "defense", "attack", "place"], ignore_index=True)
    return points.drop(columns=["family", "place", "pair"])


def matrix_figure(points: pd.DataFrame, *, metric: str = "psnr", paper: Paper = PAPER) -> Figure:
    """Draws what `matrix_points` found: defenses by attacks and adversaries, names in the colours of their families."""
    if paper.is_single:
        points = _strongest(points, metric)
    defenses = list(dict.fromkeys(points["defense"]))
    columns = sorted({(str(row.attack), str(row.adversary)) for row in points.itertuples()}, key=_column_order)
    values = np.full((len(defenses), len(columns)), np.nan)
    texts = [[""] * len(columns) for _ in defenses]
    for row in points.itertuples():
        place = defenses.index(str(row.defense)), columns.index((str(row.attack), str(row.adversary)))
        values[place] = row.mean
        texts[place[0]][place[1]] = f"{values[place]:.1f}" if abs(values[place]) >= 10 else f"{values[place]:.2g}"
    described = registered_metric(metric)
    width = min(paper.width, 1.9 + 0.52 * len(columns))
    with styled(paper):
        figure = Figure(figsize=(width, 1.5 + 0.19 * len(defenses)), layout="constrained")
        axes = figure.add_subplot()
        shown = draw_heat(
            axes,
            values,
            texts,
            rows=defenses,
            columns=[attack if paper.is_single else f"{attack}\n{adversary}" for attack, adversary in columns],
            higher_is_leakier=described.higher_is_leakier,
            limits=_PSNR if metric.startswith("psnr") else None,
        )
        axes.xaxis.tick_top()
        for name in axes.get_xticklabels():
            name.set(rotation=50, ha="left", va="bottom", rotation_mode="anchor", linespacing=0.95)
        for name, defense in zip(axes.get_yticklabels(), defenses, strict=True):
            name.set_color(FAMILIES[defense_family(defense)])
        colours = figure.colorbar(shown, ax=axes, label=metric_label(metric), shrink=0.9, aspect=30)
        if metric.startswith("psnr"):
            colours.set_ticks([5, 10, 20, 30, 40], labels=["5", "10", "20", "30", "≥ 40"])
        add_caption(figure, _caption(points, paper), replace(paper, width=width))
    return figure


def _strongest(points: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Of each attack the adversary with the highest leakage, as one: a narrow page holds no more."""
    higher = registered_metric(metric).higher_is_leakier
    best = points.sort_values("mean", ascending=not higher, kind="stable").drop_duplicates(["defense", "attack"])
    return best.sort_index().assign(adversary="oracle")


def _column_order(column: tuple[str, str]) -> tuple[str, int]:
    return column[0], ADVERSARIES.index(column[1])


def _caption(points: pd.DataFrame, paper: Paper) -> str:
    several = bool((points["settings"] > 1).any())
    of = " Of several settings of a defense that of the highest leakage." if several else ""
    whom = "attack, of its strongest adversary" if paper.is_single else "attack and adversary"
    reach = pd.concat([points["high"] - points["mean"], points["mean"] - points["low"]]).dropna()
    widths = f" 95 % intervals reach {reach.median():.2g} from the mean in the middle case, {reach.max():.2g} at most."
    return f"Mean leakage of each defense under each {whom}, {setting_text(points)}.{of}{widths} White: not run."


def draw(request: FigureRequest) -> Drawn:
    """The cases of the one setting with most pairs of defense and attack."""
    points = matrix_points(request.cases(), metric=request.metric)
    return Drawn(matrix_figure(points, metric=request.metric, paper=request.paper))
