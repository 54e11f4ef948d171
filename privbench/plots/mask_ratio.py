"""Leakage against MJP's mask ratio (Ren et al., CVPR 2023), with what the same mask does to accuracy and consistency."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from privbench.core import UserError
from privbench.plots.selection import SETTING, measured, one_setting, setting_text
from privbench.plots.style import TEXT_WIDTH, look, metric_label, styled
from privbench.scoring import registered_metric

__all__ = ["ADVERSARIES", "mask_ratio_figure", "mask_ratio_points"]

ADVERSARIES = ("unaware", "aware", "oracle")
_RATIO = "mask ratio of MJP"


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
    points: pd.DataFrame, invariant: pd.DataFrame, prices: pd.DataFrame, *, metric: str, invariant_metric: str
) -> Figure:
    """Draws leakage in place, leakage whatever the place, accuracy and consistency over one axis.

    Args:
        points: Of `mask_ratio_points`, for an aligned metric.
        invariant: The same for one that permutations of patches do not change.
        prices: `victim`, `model`, `weights`, `measure` (`accuracy`, `consistency`), `mask_ratio`, `mean`, `low`, `high`, `n`;
            victims of another model or other weights than the attacked ones are left out, and empty panels say so.
        metric: Name of the aligned metric.
        invariant_metric: Name of the other.
    """
    attacked = set(zip(points["model"], (Path(weights).name for weights in points["weights"]), strict=True))
    prices = prices[[pair in attacked for pair in zip(prices["model"], prices["weights"], strict=True)]]
    with styled():
        figure = Figure(figsize=(TEXT_WIDTH, 4.4), layout="constrained")
        axes = figure.subplots(2, 2, sharex=True)
        figure.suptitle(setting_text(points), x=0.01, ha="left", fontsize=7, color="0.3")
        for place, (table, name) in enumerate(((points, metric), (invariant, invariant_metric))):
            _curves(axes[0, place], table, "adversary", list(ADVERSARIES))
            axes[0, place].set_ylabel(metric_label(name).replace(" (", "\n("))
        victims = sorted(prices["victim"].unique())
        for place, measure in enumerate(("accuracy", "consistency")):
            table = prices[prices["measure"] == measure]
            _curves(axes[1, place], table, "victim", victims)
            axes[1, place].set(xlabel=_RATIO, ylim=(0, 1.02), xlim=(-0.03, 1.03))
            axes[1, place].set_ylabel(f"{measure} under the mask")
            if table.empty:
                text = "no price file: `privbench evaluate --defense mjp`"
                axes[1, place].text(0.5, 0.5, text, ha="center", color="0.4", transform=axes[1, place].transAxes)
        for row, title in enumerate(("worst case over attacks, by", "victim trained with")):
            handles, labels = axes[row, 0].get_legend_handles_labels()
            more = dict(zip(*reversed(axes[row, 1].get_legend_handles_labels()), strict=True))
            both = {**dict(zip(labels, handles, strict=True)), **more}
            if both:
                axes[row, 1].legend(both.values(), both.keys(), loc="center left", bbox_to_anchor=(1.01, 0.5), title=title)
    return figure


def _curves(axes: Axes, table: pd.DataFrame, series: str, kinds: list[str]) -> None:
    for place, kind in enumerate(kinds):
        curve = table[table[series] == kind].sort_values("mask_ratio")
        if not curve.empty:
            errors = np.abs(curve[["low", "high"]].to_numpy().T - curve["mean"].to_numpy())
            axes.errorbar(curve["mask_ratio"], curve["mean"], yerr=errors, elinewidth=0.8, label=kind, **look(place).line)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
