"""Which parameters give the image away: GradViT restricted to the gradients of one group of parameters at a time."""

import re

import pandas as pd
from matplotlib.figure import Figure

from privbench.core import UserError
from privbench.plots.dots import draw_dots
from privbench.plots.selection import SETTING, measured, one_setting, setting_text
from privbench.plots.style import TEXT_WIDTH, metric_label, styled

__all__ = ["leakage_map_figure", "leakage_map_points"]

_GROUPS = ("all", "first-block", "embedding", "patch-embedding", "position", "attention", "mlp", "norm", "head")


def leakage_map_points(rows: pd.DataFrame, *, metric: str = "psnr") -> pd.DataFrame:
    """One point per group of parameters (`attack.layers`), in the one setting where most groups were measured.

    Args:
        rows: A table of cases; those of `gradvit` without defense count.
        metric: Name of the leakage metric.

    Returns:
        `name` (the group), `mean`, `low`, `high`, `n` and the columns of the setting: sets of groups first, then parts of the
        network, then blocks from the first to the last.

    Raises:
        UserError: Fewer than two groups, or none has the metric.
    """
    chosen = rows[(rows["attack"] == "gradvit") & (rows["defense"] == "none")]
    if not chosen.empty:
        chosen = measured(chosen, metric)
        chosen = chosen.assign(
            name=[str(fields["layers"]) for fields in chosen["attack_fields"]],
            otherwise=[
                str(sorted((key, value) for key, value in fields.items() if key != "layers"))
                for fields in chosen["attack_fields"]
            ],
        )
        chosen = one_setting(chosen, [*SETTING, "adversary", "otherwise"], differ_in="name")
    if len(chosen) < 2:
        raise UserError(
            "a leakage map needs gradvit records without defense that differ in attack.layers alone; make some with "
            "`privbench run --defense none --set attack.layers=embedding`, and with attack.layers=all, on the same images"
        )
    return chosen.assign(order=chosen["name"].map(_order)).sort_values("order", ignore_index=True).drop(columns="order")


def _order(name: str) -> tuple[int, int, str]:
    if name in _GROUPS:
        return 0, _GROUPS.index(name), ""
    number = re.search(r"\d+$", name)
    return (2, int(number[0]), name) if number else (1, 0, name)


def leakage_map_figure(points: pd.DataFrame, *, metric: str = "psnr") -> Figure:
    """Draws what `leakage_map_points` found, one row per group."""
    with styled():
        figure = Figure(figsize=(TEXT_WIDTH / 2 + 1, 0.8 + 0.24 * len(points)), layout="constrained")
        axes = figure.add_subplot()
        draw_dots(axes, points, names=list(points["name"]))
        axes.set(xlabel=metric_label(metric), ylabel="gradients that are matched")
        axes.set_title(setting_text(points), loc="left", fontsize=7, color="0.3")
    return figure
