"""What the client's setting does to leakage: batch size, image resolution, trained or random weights, train or eval mode."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from privbench.core import UserError
from privbench.drawing.style import PAPER, SMALLEST, Paper, add_caption, literal_legend, look, metric_label, styled
from privbench.plots.request import Drawn, FigureRequest
from privbench.plots.selection import SETTING, measured, setting_text

__all__ = ["SETTING_AXES", "settings_figure", "settings_points"]

SETTING_AXES: Mapping[str, str] = {
    "batch_size": "batch size",
    "image_size": "resolution, pixels",
    "weights": "victim's weights",
    "model_mode": "client's mode",
}
"""Column of a table of cases to the title of its panel."""

_NUMBERS = ("batch_size", "image_size")
_ALIKE = ("attack", "attack_params", "defense", "defense_params", "adversary")
_LONG = 10
"""Letters of a file's name that fit below a point."""
_ORDER = {"random": "", "eval": ""}
"""Come first on their axis; the others follow by name."""


def settings_points(rows: pd.DataFrame, *, metric: str = "psnr") -> pd.DataFrame:
    """One point per case that has another beside it which differs in one of the four alone.

    A larger batch may take more images, so cases over other images of the same data set compare here; `n` says how many.

    Args:
        rows: A table of cases.
        metric: Name of the leakage metric.

    Returns:
        `axis` (a key of `SETTING_AXES`), `value`, `series` (attack and defense, and the adversary where there are several),
        `mean`, `low`, `high`, `n`, `case` and the columns of the setting, by axis and series.

    Raises:
        UserError: No two cases differ in one of the four alone, or none has the metric.
    """
    found = []
    usable = measured(rows, metric)
    for axis in SETTING_AXES:
        alike = [*(name for name in SETTING if name not in {axis, "images"}), *_ALIKE]
        for _, group in usable.groupby(alike, dropna=False, sort=True):
            # Of several cases with one value the one with most images.
            group = group.sort_values("n", ascending=False, kind="stable").drop_duplicates(axis)
            if len(group) > 1:
                found.append(group.assign(axis=axis, value=group[axis].astype(object), series=_series(group, usable)))
    if not found:
        raise UserError(
            "no two records differ in batch size, resolution, weights or mode alone; make a second with "
            "`privbench run --defense none --batch-size 2`, or `--weights random`, or `--model-mode train`"
        )
    columns = ["axis", "value", "series", "mean", "low", "high", "n", "case", *SETTING]
    return _told_apart(pd.concat(found, ignore_index=True))[columns]


def _series(group: pd.DataFrame, rows: pd.DataFrame) -> str:
    first = group.iloc[0]
    words = [str(first["attack_label"])]
    if first["defense"] != "none":
        words.append(str(first["defense_label"]))
    if len(set(rows["adversary"])) > 1:
        words.append(str(first["adversary"]))
    return ", ".join(words)


def _told_apart(points: pd.DataFrame) -> pd.DataFrame:
    """Series of one name whose points differ in what it does not say, such as the data, get that in their names."""
    for column in ("model", "dataset", *SETTING_AXES, "labels", "split", "seed"):
        named = points["axis"] != column
        values = points[named].groupby(["axis", "series"])[column].nunique(dropna=False)
        named &= points["series"].isin(values[values > 1].index.get_level_values("series"))
        points.loc[named, "series"] += ", " + points.loc[named, column].astype(str)
    return points


def settings_figure(points: pd.DataFrame, *, metric: str = "psnr", paper: Paper = PAPER) -> Figure:
    """Draws what `settings_points` found, one panel for each of the four that was varied; two rows of them in one column."""
    axes_found = [axis for axis in SETTING_AXES if axis in set(points["axis"])]
    series = list(dict.fromkeys(points["series"]))
    letters = paper.letters(0.9)
    named = {name: fill(name, letters - 8) for name in series}
    points = points.assign(series=points["series"].map(named))
    rows = len(axes_found) if paper.is_single else 1
    with styled(paper):
        lines = sum(name.count("\n") + 1 for name in named.values())
        figure = Figure(figsize=(paper.width, 1.0 + 1.5 * rows + 0.12 * lines), layout="constrained")
        # Words need more room than numbers.
        widths = [
            1 + (1 if axis in _NUMBERS else 1.6) * points.loc[points["axis"] == axis, "value"].nunique() for axis in axes_found
        ]
        panels = figure.subplots(
            rows, len(axes_found) // rows, sharey=True, squeeze=False, width_ratios=None if paper.is_single else widths
        ).ravel()
        for panel, axis in zip(panels, axes_found, strict=True):
            _panel(panel, points[points["axis"] == axis], axis, list(named.values()))
        for panel in panels[:: len(axes_found) // rows]:
            panel.set_ylabel(metric_label(metric).replace(" (", "\n("))
        add_caption(figure, f"{setting_text(points)}; below each point the number of images. Bars: 95 % intervals.", paper)
        literal_legend(figure, letters=letters)
    return figure


def draw(request: FigureRequest) -> Drawn:
    """The cases that differ in one of the four alone."""
    points = settings_points(request.cases(), metric=request.metric)
    return Drawn(settings_figure(points, metric=request.metric, paper=request.paper))


def _panel(panel: Axes, points: pd.DataFrame, axis: str, series: list[str]) -> None:
    values = sorted(points["value"].unique(), key=lambda value: value if axis in _NUMBERS else _ORDER.get(value, str(value)))
    places = {value: place for place, value in enumerate(values)}
    present = [name for name in series if name in set(points["series"])]
    for number, name in enumerate(present):
        curve = points[points["series"] == name]
        curve = curve.assign(place=curve["value"].map(places)).sort_values("place")
        errors = np.abs(curve[["low", "high"]].to_numpy().T - curve["mean"].to_numpy())
        x = curve["place"] + (number - (len(present) - 1) / 2) * 0.16 / max(len(present) - 1, 1)
        panel.errorbar(x, curve["mean"], yerr=errors, elinewidth=0.8, label=name, **look(series.index(name)).line)
    panel.set_xticks(range(len(values)))
    numbers = [points.loc[points["value"] == value, "n"] for value in values]
    labels = [f"{_short(value)}\n({_range(n)})" for value, n in zip(values, numbers, strict=True)]
    panel.set_xticklabels(labels, fontsize=SMALLEST)
    panel.set_title(SETTING_AXES[axis], fontsize=8)
    panel.set(xlim=(-0.5, len(values) - 0.5))
    panel.grid(axis="y", color="0.92", linewidth=0.6)
    panel.set_axisbelow(True)


def _short(value: object) -> str:
    """A weights file by the end of its name, `MODEL.DEFENSE.safetensors` by the defense, under the word for it."""
    path = Path(str(value))
    if not path.suffix:
        return path.name
    name = path.stem.rpartition(".")[2]
    return f"file\n{name if len(name) <= _LONG else '…' + name[1 - _LONG :]}"


def _range(numbers: pd.Series) -> str:
    low, high = numbers.min(), numbers.max()
    return f"{low}" if low == high else f"{low}-{high}"
