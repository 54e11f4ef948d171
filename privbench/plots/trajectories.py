"""Trajectories: the losses of several variants of an attack over its steps, and PSNR where it was scored on the way."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from privbench.core import UserError
from privbench.plots.style import TEXT_WIDTH, look, metric_label, styled

__all__ = ["trajectories_figure", "trajectories_points"]

_SCORE = "psnr"
_COLUMNS = 3
_LETTERS = 100
"""Of a legend's names that stand beside each other across the page."""


def trajectories_points(traces: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """All traces as one long table.

    Args:
        traces: What each series is called, and its trace: indexed by step, the column `phase` and one per loss, NaN where
            nothing was reported.

    Returns:
        `series`, `step`, `phase`, `quantity`, `value`, in the order of the traces; finite values alone.

    Raises:
        UserError: No trace has a loss.
    """
    parts = []
    for series, trace in traces.items():
        long = (
            trace.reset_index()
            .melt(id_vars=["step", "phase"], var_name="quantity", value_name="value")
            .dropna(subset=["value"])
        )
        parts.append(long.assign(series=series))
    points = pd.concat(parts) if parts else pd.DataFrame()
    if points.empty:
        raise UserError(
            "no record has a loss trace; attacks by gradient matching write one, such as "
            "`privbench run --defense none`, and the same with `--set attack.relocation=off`"
        )
    return points[["series", "step", "phase", "quantity", "value"]].reset_index(drop=True)


def trajectories_figure(points: pd.DataFrame) -> Figure:
    """Draws what `trajectories_points` found: one panel per quantity, a grey line where a phase begins.

    PSNR stands first, on a linear axis; losses are logarithmic, so that values that are not positive are left out.
    """
    quantities = sorted(dict.fromkeys(points["quantity"]), key=lambda name: name != _SCORE)
    quantities = [name for name in quantities if name == _SCORE or (points.loc[points["quantity"] == name, "value"] > 0).any()]
    series = list(dict.fromkeys(points["series"]))
    rows = -(-len(quantities) // _COLUMNS)
    with styled():
        figure = Figure(figsize=(TEXT_WIDTH, 0.4 + 1.45 * rows), layout="constrained")
        panels = figure.subplots(rows, min(_COLUMNS, len(quantities)), sharex=True, squeeze=False)
        for panel in panels.flat[len(quantities) :]:
            panel.set_visible(False)
        for place, (panel, quantity) in enumerate(zip(panels.flat, quantities, strict=False)):
            _panel(panel, points[points["quantity"] == quantity], quantity, series)
            _phases(panel, points, named=place < _COLUMNS)
            if place + _COLUMNS >= len(quantities):
                panel.set_xlabel("step")
                panel.tick_params(labelbottom=True)
        handles = {}
        for panel in panels.flat[: len(quantities)]:
            handles.update(dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True)))
        columns = next(columns for columns in (3, 2, 1) if columns == 1 or max(map(len, handles)) * columns < _LETTERS)
        for text in figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns).get_texts():
            text.set_parse_math(False)
    return figure


def _panel(panel: Axes, points: pd.DataFrame, quantity: str, series: list[str]) -> None:
    for place, name in enumerate(series):
        curve = points[(points["series"] == name)].sort_values("step")
        if quantity != _SCORE:
            curve = curve[curve["value"] > 0]
        if curve.empty:
            continue
        # A marker on every tenth of the way tells the series apart where dashes are short.
        every = max(1, len(curve) // 8)
        style = {**look(place).line, "markersize": 3, "markevery": (place * every // max(len(series), 1), every)}
        panel.plot(curve["step"], curve["value"], label=name, **style)
    if quantity == _SCORE:
        panel.set_ylabel(metric_label(_SCORE).partition(" (")[0])
    else:
        panel.set(yscale="log", ylabel=f"loss: {quantity}")
        # Plain numbers, at 2 and 5 as well: many losses change by less than a decade.
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())


def _phases(panel: Axes, points: pd.DataFrame, *, named: bool) -> None:
    first = points[points["series"] == points["series"].iloc[0]].drop_duplicates("step").sort_values("step")
    begins = first[first["phase"] != first["phase"].shift()]
    for place, (step, phase) in enumerate(zip(begins["step"], begins["phase"], strict=True)):
        if place:
            panel.axvline(step, color="0.6", linewidth=0.7)
        if named:
            panel.annotate(
                str(phase),
                xy=(step, 1),
                xycoords=("data", "axes fraction"),
                xytext=(2, 2),
                textcoords="offset points",
                color="0.35",
                fontsize=6,
                parse_math=False,
            )
