"""Leakage against MJP's mask ratio (Ren et al., CVPR 2023), with what the same mask does to accuracy and consistency."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from privbench.analysis.cases import utility_table
from privbench.core import ADVERSARIES, METRICS, UserError
from privbench.drawing.style import PAPER, SMALLEST, Paper, add_caption, literal_legend, look, metric_label, styled
from privbench.plots.request import Drawn, FigureRequest
from privbench.plots.selection import SETTING, measured, one_setting, setting_text
from privbench.scoring import BUILT_IN, registered_metric

__all__ = ["mask_ratio_figure", "mask_ratio_points"]

_RATIO = "mask ratio of MJP"
_WHOLE = 40.0
"""PSNR in dB from which an image is back without a visible difference; such points get a panel of their own."""


def mask_ratio_points(rows: pd.DataFrame, *, metric: str = "psnr") -> pd.DataFrame:
    """One point per mask ratio and adversary: the leakiest attack, in the one setting where most ratios were measured.

    Args:
        rows: A table of cases; those whose defense is MJP alone count.
        metric: Name of the leakage metric.

    Returns:
        `mask_ratio`, `adversary`, `attack`, `mean`, `low`, `high`, `n` and the columns of the setting, by adversary and ratio.

    Raises:
        UserError: No case is of MJP, or none has the metric.
    """
    chosen = rows[rows["mask_ratio"].notna()]
    if chosen.empty:
        raise UserError(
            "no record has defense mjp; make some with "
            "`privbench run --defense mjp:mask_ratio=0.1,mjp:mask_ratio=0.5 --adversary aware`"
        )
    chosen = one_setting(measured(chosen, metric), SETTING, differ_in="mask_ratio")
    leakier_first = chosen.sort_values("mean", ascending=not registered_metric(metric).higher_is_leakier, kind="stable")
    points = leakier_first.drop_duplicates(["mask_ratio", "adversary"])
    order = points["adversary"].map(ADVERSARIES.index)
    return points.assign(order=order).sort_values(["order", "mask_ratio"], ignore_index=True).drop(columns="order")


def mask_ratio_figure(
    points: pd.DataFrame,
    invariant: pd.DataFrame,
    reports: pd.DataFrame,
    *,
    metric: str,
    invariant_metric: str,
    paper: Paper = PAPER,
) -> Figure:
    """Draws leakage in place, leakage whatever the place, accuracy and consistency over one axis.

    Args:
        points: Of `mask_ratio_points`, for an aligned metric.
        invariant: The same for one that permutations of patches do not change.
        reports: `victim`, `model`, `weights`, `measure` (`accuracy`, `consistency`), `mask_ratio`, `mean`, `low`, `high`, `n`;
            victims of another model or other weights than the attacked ones are left out, and empty panels say so.
        metric: Name of the aligned metric.
        invariant_metric: Name of the other.
        paper: What for.
    """
    attacked = set(zip(points["model"], (Path(weights).name for weights in points["weights"]), strict=True))
    reports = reports[[pair in attacked for pair in zip(reports["model"], reports["weights"], strict=True)]]
    broken = _is_broken(points, metric) or _is_broken(invariant, invariant_metric)
    with styled(paper):
        height = (3.2 if broken else 2.8) + 1.6
        figure = Figure(figsize=(paper.width, 2 * height if paper.is_single else height), layout="constrained")
        shape = (4, 1) if paper.is_single else (2, 2)
        heights = [1.2, 1.2, 1, 1] if paper.is_single else [1.3, 1]
        parts = list(np.ravel(np.asarray(figure.subfigures(*shape, height_ratios=heights))))
        for part, table, name in zip(parts, (points, invariant), (metric, invariant_metric), strict=False):
            _leakage(part, table, name)
        victims = sorted(reports["victim"].unique())
        for part, measure in zip(parts[2:], ("accuracy", "consistency"), strict=True):
            axes = part.subplots()
            table = reports[reports["measure"] == measure]
            _curves(axes, table, "victim", victims, "victim trained with {}", first=len(ADVERSARIES))
            axes.set(xlabel=_RATIO, ylim=(0, 1.02), xlim=_SPAN, ylabel=measure)
            if table.empty:
                text = "no utility report:\n`privbench evaluate --defense mjp`"
                axes.text(0.5, 0.5, text, ha="center", color="0.4", fontsize=SMALLEST, transform=axes.transAxes)
        add_caption(figure, _caption(points, reports, broken=broken), paper)
        literal_legend(figure, letters=paper.letters(0.9))
    return figure


_SPAN = (-0.03, 1.03)


def _caption(points: pd.DataFrame, reports: pd.DataFrame, *, broken: bool) -> str:
    words = [
        f"{setting_text(points)}. Leakage: highest over the attacks, "
        "in place (first panel) and after the best rearrangement of patches (second)."
    ]
    if broken:
        words.append(f"Above the break: points of {_WHOLE:g} dB and more, images that are back.")
    if "consistency" in set(reports["measure"]):
        words.append(
            "Accuracy and consistency are under the mask; "
            "consistency: share of test images whose predicted class is the same with and without the mask."
        )
    return " ".join([*words, "Bars: 95 % intervals."])


def _is_broken(table: pd.DataFrame, metric: str) -> bool:
    """Whether some images are back and some are not, so that one axis would press the others together."""
    return metric.startswith("psnr") and bool((table["mean"] >= _WHOLE).any() and (table["mean"] < _WHOLE).any())


def _leakage(part: Figure | SubFigure, table: pd.DataFrame, name: str) -> None:
    """One metric by adversary; broken in two where some images are back and some are not."""
    label = metric_label(name).replace(" (", "\n(")
    broken = _is_broken(table, name)
    panels = list(part.subplots(2, 1, sharex=True, height_ratios=[1, 2.2])) if broken else [part.subplots()]
    for panel in panels:
        _curves(panel, table, "adversary", list(ADVERSARIES), "{} adversary")
        panel.set(xlim=_SPAN)
    panels[-1].set(xlabel=_RATIO, ylabel=label)
    if not broken:
        return
    upper, lower = panels
    high = table.loc[table["mean"] >= _WHOLE, ["low", "high"]]
    low = table.loc[table["mean"] < _WHOLE, ["low", "high"]]
    lower.set_ylim(low["low"].min() - 1, min(low["high"].max() + 1, _WHOLE + 1))
    upper.set_ylim(_WHOLE + 1, 1.05 * max(high["high"].max(), _WHOLE + 10))
    upper.spines["bottom"].set_visible(False)
    upper.tick_params(axis="x", length=0)
    # Where the axis is broken.
    mark: dict[str, Any] = {
        "marker": [(-1, -0.6), (1, 0.6)],
        "markersize": 6,
        "linestyle": "none",
        "color": "0.3",
        "clip_on": False,
    }
    upper.plot([0], [0], transform=upper.transAxes, **mark)
    lower.plot([0], [1], transform=lower.transAxes, **mark)


def _curves(axes: Axes, table: pd.DataFrame, series: str, kinds: list[str], label: str, *, first: int = 0) -> None:
    for place, kind in enumerate(kinds, start=first):
        curve = table[table[series] == kind].sort_values("mask_ratio")
        if not curve.empty:
            errors = np.abs(curve[["low", "high"]].to_numpy().T - curve["mean"].to_numpy())
            style = look(place).line if len(curve) > 1 else look(place).points
            axes.errorbar(curve["mask_ratio"], curve["mean"], yerr=errors, elinewidth=0.8, label=label.format(kind), **style)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)


def draw(request: FigureRequest) -> Drawn:
    """The cases under MJP, in place and whatever the place, with the utility reports that lie beside them."""
    rows = request.cases()
    invariant = f"{request.metric}_patch"
    if invariant not in {*BUILT_IN, *METRICS.names()}:
        invariant = "psnr_patch"
    points = mask_ratio_points(rows, metric=request.metric)
    assigned = mask_ratio_points(rows, metric=invariant)
    reports = utility_table(request.records)
    notes = [f"no utility report below {request.records}: `privbench evaluate --defense mjp`"] if reports.empty else []
    figure = mask_ratio_figure(
        points, assigned, reports, metric=request.metric, invariant_metric=invariant, paper=request.paper
    )
    return Drawn(figure, tuple(notes))
