"""Dots with intervals on named rows: the form of all figures that compare a handful of named things."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from privbench.drawing.style import look

__all__ = ["draw_dots"]


def draw_dots(axes: Axes, points: pd.DataFrame, *, names: Sequence[str], series: str | None = None) -> None:
    """Draws one dot with its 95 % interval for each point.

    Args:
        axes: Where.
        points: `name`, `mean`, `low`, `high`, and the column `series`.
        names: The rows, first one on top.
        series: The column whose values stand beside each other in a row, each with a marker of its own; None: one marker.
    """
    places = {name: place for place, name in enumerate(names)}
    kinds = list(dict.fromkeys(points[series])) if series else [None]
    for number, kind in enumerate(kinds):
        chosen = points if kind is None else points[points[series] == kind]
        offset = (number - (len(kinds) - 1) / 2) * 0.6 / max(len(kinds), 2)
        y = np.array([places[name] + offset for name in chosen["name"]])
        errors = np.abs(chosen[["low", "high"]].to_numpy().T - chosen["mean"].to_numpy())
        label = None if kind is None else str(kind)
        axes.errorbar(chosen["mean"], y, xerr=errors, elinewidth=0.8, label=label, **look(number).points)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)))
    for tick, name in zip(axes.set_yticklabels(names), names, strict=True):
        tick.set_parse_math(False)
        tick.set_text(name)
        tick.set_linespacing(0.95)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
