"""Architectures under the same attack: does a vision transformer give more away than a CNN?"""

from textwrap import fill

import pandas as pd
from matplotlib.figure import Figure

from privbench.core import UserError
from privbench.drawing.dots import draw_dots
from privbench.drawing.style import PAPER, Paper, add_caption, literal_legend, metric_label, styled
from privbench.plots.request import Drawn, FigureRequest
from privbench.plots.selection import SETTING, measured, setting_text

__all__ = ["architectures_figure", "architectures_points"]


def architectures_points(rows: pd.DataFrame, *, metric: str = "psnr") -> pd.DataFrame:
    """One point per model and attack without defense, for attacks that met several models on the same images.

    Args:
        rows: A table of cases.
        metric: Name of the leakage metric; permutation-invariant ones need patches, which a CNN has not.

    Returns:
        `name` (the attack, and the setting where an attack stands in several), `model`, `mean`, `low`, `high`, `n`, by name
        and model.

    Raises:
        UserError: No attack met two models on the same images, or no case has the metric.
    """
    chosen = rows[rows["defense"] == "none"]
    if not chosen.empty:
        chosen = measured(chosen, metric)
    alike = [*(name for name in SETTING if name != "model"), "attack", "attack_params", "adversary"]
    groups = [group.drop_duplicates("model") for _, group in chosen.groupby(alike, dropna=False, sort=True)]
    groups = [group for group in groups if len(group) > 1]
    if not groups:
        raise UserError(
            "no attack met two models on the same images without a defense; make records with "
            "`privbench run --defense none --attack inverting-gradients` and the same with `--model cnn_mini_32`"
        )
    # Several rows of one name need what tells them apart.
    named = [group.assign(name=group["attack_label"]) for group in groups]
    for column in ("weights", "dataset", "batch_size", "labels", "model_mode", "adversary", "images"):
        names = [group["name"].iloc[0] for group in named]
        if len(set(names)) == len(names):
            break
        if len({group[column].iloc[0] for group in named}) > 1:
            named = [group.assign(name=group["name"] + f", {column} " + group[column].astype(str)) for group in named]
    return pd.concat(named).sort_values(["name", "model"], ignore_index=True)


def architectures_figure(points: pd.DataFrame, *, metric: str = "psnr", paper: Paper = PAPER) -> Figure:
    """Draws what `architectures_points` found: one row per attack, one marker per model."""
    points = points.assign(name=[fill(name, 24 if paper.is_single else 44) for name in points["name"]])
    names = list(dict.fromkeys(points["name"]))
    points = points.sort_values("model", kind="stable")
    with styled(paper):
        figure = Figure(figsize=(paper.width, 0.9 + 0.16 * len(points)), layout="constrained")
        axes = figure.add_subplot()
        draw_dots(axes, points, names=names, series="model")
        axes.set_xlabel(metric_label(metric))
        add_caption(figure, f"Without a defense, {setting_text(points)}. Bars: 95 % intervals.", paper)
        literal_legend(figure if paper.is_single else axes)
    return figure


def draw(request: FigureRequest) -> Drawn:
    """The models that one attack met on the same images."""
    points = architectures_points(request.cases(), metric=request.metric)
    return Drawn(architectures_figure(points, metric=request.metric, paper=request.paper))
