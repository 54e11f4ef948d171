"""The front between privacy and accuracy: what each defense leaves to its strongest attacker, against what it costs."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

from privbench.core import UserError
from privbench.figures.style import TEXT_WIDTH, literal_legend, look, styled

__all__ = ["FRONT_SETTING", "front_figure", "front_points"]

FRONT_SETTING = ("model", "dataset", "split", "batch_size", "labels", "model_mode")
"""Columns of the leaderboard in which the rows of one front are alike."""

_WIDE = 4
"""The leakage axis is logarithmic where its ends differ by more than this factor."""


def front_points(rows: pd.DataFrame, *, metric: str, higher_is_leakier: bool) -> pd.DataFrame:
    """One point per defense and setting: its leakiest row over all attacks and adversaries.

    Args:
        rows: A leaderboard.
        metric: Name of the leakage metric.
        higher_is_leakier: Its direction.

    Returns:
        `defense`, `defense_params`, `attack`, `adversary`, `leakage`, `low`, `high`, `accuracy`, `accuracy_low`,
        `accuracy_high` (NaN where it has no interval), `source` of the accuracy, and `on_front`: no other point is at least as
        accurate and less leaky. Where any row has the accuracy of a victim that was trained under its defense by a recipe that
        an undefended one shares, the accuracy is that share of the undefended victim's, so that several recipes stand on one
        axis, and rows without it are left out (`retrained`); else it is that of the price of the attacked victim (`price`),
        or else that of its card (`card`).

    Raises:
        UserError: The metric is not there, rows do not compare, or no row has an accuracy.
    """
    columns = {f"{metric}_mean": "leakage", f"{metric}_ci_low": "low", f"{metric}_ci_high": "high"}
    if f"{metric}_mean" not in rows:
        known = [name.removesuffix("_mean") for name in map(str, rows) if name.endswith("_mean")]
        raise UserError(f"the leaderboard has no metric '{metric}'; accepted: {', '.join(known)}")
    for column in FRONT_SETTING:
        values = sorted(map(str, rows[column].unique()))
        if len(values) > 1:
            raise UserError(f"rows of different {column} do not compare ({', '.join(values)}); give a folder with one of them")
    points = rows.rename(columns=columns).dropna(subset=["leakage"])
    points["accuracy_low"] = points["accuracy_high"] = np.nan
    if points["retrained_accuracy"].notna().any():
        points = points.dropna(subset=["retrained_accuracy"]).drop(columns=["accuracy", "accuracy_low", "accuracy_high"])
        sources = {"retrained_accuracy": "accuracy", "retrained_ci_low": "accuracy_low", "retrained_ci_high": "accuracy_high"}
        points = points.rename(columns=sources)
        for column in sources.values():
            points[column] = pd.to_numeric(points[column]) / pd.to_numeric(points["retrained_undefended"])
        points["source"] = "retrained"
    else:
        points["source"] = np.where(points["price_accuracy"].notna(), "price", "card")
        points["accuracy"] = pd.to_numeric(points["price_accuracy"]).fillna(pd.to_numeric(points["accuracy"]))
    points = points.dropna(subset=["accuracy"])
    if points.empty:
        raise UserError("no row has an accuracy; measure it with `privbench evaluate --defense SPEC`, into the same folder")
    points["defense_params"] = points["defense_params"].fillna("")
    points = points.sort_values("leakage", ascending=not higher_is_leakier, kind="stable")
    points = points.groupby(["defense", "defense_params"], as_index=False).first()
    leakage = points["leakage"].to_numpy() * (1 if higher_is_leakier else -1)
    accuracy = points["accuracy"].to_numpy()
    points["on_front"] = [
        not bool(np.any((accuracy >= a) & (leakage <= worst) & ((accuracy > a) | (leakage < worst))))
        for a, worst in zip(accuracy, leakage, strict=True)
    ]
    accuracies = ["accuracy", "accuracy_low", "accuracy_high", "source"]
    return points[["defense", "defense_params", "attack", "adversary", *columns.values(), *accuracies, "on_front"]]


def front_figure(points: pd.DataFrame, *, label: str, higher_is_leakier: bool) -> Figure:
    """Draws what `front_points` found.

    Args:
        points: One row per point.
        label: The leakage axis, with its unit.
        higher_is_leakier: The direction of the metric; the private side is always below.

    Returns:
        A figure as wide as two columns of a paper; one marker per defense, readable without colour. Where leakage spreads by
        more than a factor of four its axis is logarithmic.
    """
    with styled():
        figure = Figure(figsize=(TEXT_WIDTH, 3.6), layout="constrained")
        axes = figure.add_subplot()
        front = points[points["on_front"]].sort_values("accuracy")
        axes.step(100 * front["accuracy"], front["leakage"], where="pre", color="0.7", linewidth=1, zorder=0)
        for place, (defense, group) in enumerate(points.groupby("defense", sort=True)):
            group = group.sort_values("leakage")
            errors = np.abs(group[["low", "high"]].to_numpy(float).T - group["leakage"].to_numpy(float))
            widths = np.abs(group[["accuracy_low", "accuracy_high"]].to_numpy(float).T - group["accuracy"].to_numpy(float))
            axes.errorbar(
                100 * group["accuracy"],
                group["leakage"],
                yerr=errors,
                xerr=None if np.isnan(widths).any() else 100 * widths,
                **{**look(place).points, "markersize": 6},
                capsize=1.5,
                elinewidth=0.5,
                label=f"{defense} ({len(group)})" if len(group) > 1 else str(defense),
            )
        low, high = points["low"].min(), points["high"].max()
        if low > 0 and high > _WIDE * low:
            # Exact reconstructions beside such that show nothing.
            axes.set_yscale("log", base=2)
            axes.yaxis.set_major_locator(LogLocator(2, subs=[1, 1.25, 1.5]))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        if not higher_is_leakier:
            axes.invert_yaxis()
        trained = (points["source"] == "retrained").all()
        xlabel = "accuracy when trained under the defense, % of the undefended" if trained else "accuracy of the victim, %"
        axes.set(xlabel=xlabel, ylabel=f"{label}\nworst case, lower is more private")
        literal_legend(axes)
    return figure
