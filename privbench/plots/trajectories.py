"""Trajectories: the losses of several variants of an attack over its steps, and PSNR where it was scored on the way."""

from collections.abc import Mapping
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from privbench.core import UserError
from privbench.drawing.style import PAPER, SMALLEST, Paper, add_caption, literal_legend, look, metric_label, styled
from privbench.plots.ablation import ABLATED, variant_names
from privbench.plots.request import Drawn, FigureRequest
from privbench.plots.selection import SETTING, one_setting, setting_text
from privbench.store.layout import TRACE
from privbench.store.trace import read_trace

__all__ = ["case_traces", "trajectories_figure", "trajectories_points"]

_SCORE = "psnr"
_RESAMPLINGS = 1000
_KEYS = ["batch", "step", "phase"]


def trajectories_points(traces: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """All traces as one long table, means over the client batches.

    Args:
        traces: What each series is called, and its trace: the columns `batch`, `step`, `phase` and one per loss, NaN where
            nothing was reported.

    Returns:
        `series`, `step`, `phase`, `quantity`, `value`, `low`, `high` (95 % bootstrap interval over batches), `n` (batches),
        in the order of the traces; finite values alone.

    Raises:
        UserError: No trace has a loss.
    """
    parts = []
    for series, trace in traces.items():
        long = trace.melt(id_vars=_KEYS, var_name="quantity", value_name="value").dropna(subset=["value"])
        for quantity, values in long.groupby("quantity", sort=False):
            table = values.pivot_table(index="step", columns="batch", values="value").sort_index()
            low, high = _interval(table.to_numpy())
            phases = values.groupby("step")["phase"].first()
            part = {
                "step": table.index,
                "phase": phases.to_numpy(),
                "value": table.mean(axis=1).to_numpy(),
                "low": low,
                "high": high,
            }
            parts.append(pd.DataFrame(part).assign(series=series, quantity=str(quantity), n=table.count(axis=1).to_numpy()))
    points = pd.concat(parts) if parts else pd.DataFrame()
    if points.empty:
        raise UserError(
            "no record has a loss trace; attacks by gradient matching write one, such as "
            "`privbench run --defense none`, and the same with `--set attack.relocation=off`"
        )
    return points[["series", "step", "phase", "quantity", "value", "low", "high", "n"]].reset_index(drop=True)


def _interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the means of rows `[steps, batches]`: percentiles of bootstrap means, one resampling of batches for all steps."""
    drawn = np.random.default_rng(0).integers(values.shape[1], size=(_RESAMPLINGS, values.shape[1]))
    counts = np.stack([np.bincount(row, minlength=values.shape[1]) for row in drawn]).T
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (np.where(known, values, 0.0) @ counts) / (known @ counts)
    low, high = np.nanpercentile(means, [2.5, 97.5], axis=1)
    return low, high


def case_traces(rows: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """The loss traces of the variants of one attack without defense, in the one setting where most variants have one.

    Args:
        rows: A table of cases.

    Returns:
        The attack with what differs from its defaults, to its trace; and the rows of the table that they are of.
    """
    traces = {path: read_trace(path / TRACE) for path in rows["folder"] if (path / TRACE).exists()}
    traced = rows[[path in traces and len(set(traces[path]["step"])) > 1 for path in rows["folder"]]]
    traced = traced[traced["defense"] == "none"]
    chosen = one_setting(traced, [*SETTING, "adversary", "attack"], differ_in="attack_params")
    chosen = chosen.drop_duplicates("attack_params")
    names = list(chosen["attack_label"])
    if len(set(chosen["attack"])) == 1 and set(chosen["attack"]) <= set(ABLATED):
        order, names, _ = variant_names(list(chosen["attack_fields"]))
        # The whole attack first, the control last.
        chosen, names = chosen.iloc[order[::-1]], names[::-1]
    return {name: traces[path] for name, path in zip(names, chosen["folder"], strict=True)}, chosen


def trajectories_figure(points: pd.DataFrame, *, setting: str = "", paper: Paper = PAPER) -> Figure:
    """Draws what `trajectories_points` found: one panel per quantity, a grey line where a phase begins.

    PSNR stands first, on a linear axis; losses are logarithmic, so that values that are not positive are left out.

    Args:
        points: What to draw.
        setting: Of the cases, for the caption.
        paper: What for.
    """
    quantities = sorted(dict.fromkeys(points["quantity"]), key=lambda name: name != _SCORE)
    quantities = [name for name in quantities if name == _SCORE or (points.loc[points["quantity"] == name, "value"] > 0).any()]
    letters = paper.letters(0.9)
    named = {name: fill(name, letters - 8) for name in dict.fromkeys(points["series"])}
    points = points.assign(series=points["series"].map(named))
    columns = _columns(len(quantities), paper)
    rows = -(-len(quantities) // columns)
    with styled(paper):
        figure = Figure(
            figsize=(paper.width, 0.6 + (1.1 if paper.is_single else 1.45) * rows + 0.08 * len(named)), layout="constrained"
        )
        panels = figure.subplots(rows, columns, sharex=True, squeeze=False)
        for panel in panels.flat[len(quantities) :]:
            figure.delaxes(panel)
        for place, (panel, quantity) in enumerate(zip(panels.flat, quantities, strict=False)):
            _panel(panel, points[points["quantity"] == quantity], quantity, list(named.values()))
            _phases(panel, points, named=place < columns)
            if place + columns >= len(quantities):
                panel.set_xlabel("step")
                panel.tick_params(labelbottom=True)
        least, most = points["n"].min(), points["n"].max()
        count = f"n = {least}" if least == most else f"n = {least} to {most}"
        words = [setting, f"Means over {count} client batches; bands: 95 % bootstrap intervals; grey lines: a phase begins."]
        add_caption(figure, ". ".join(filter(None, words)), paper)
        literal_legend(figure, letters=letters)
    return figure


def _columns(panels: int, paper: Paper) -> int:
    """An even grid: as few empty places as possible, three columns at most; one where the page is one column."""
    if paper.is_single:
        return 1
    return min(range(min(3, panels), 0, -1), key=lambda columns: (-panels % columns, -columns) if columns > 1 else (1, 0))


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
        floor = curve["value"].min() / 10 if quantity != _SCORE else -np.inf
        panel.fill_between(
            curve["step"], curve["low"].clip(lower=floor), curve["high"], color=look(place).colour, alpha=0.12, linewidth=0
        )
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panel.grid(color="0.93", linewidth=0.5)
    panel.set_axisbelow(True)
    if quantity == _SCORE:
        panel.set_ylabel(metric_label(_SCORE).partition(" (")[0])
    else:
        panel.set(yscale="log", ylabel=f"loss: {quantity}")
        # Plain numbers, at 2 and 5 as well where a loss changes by less than two decades.
        low, high = panel.get_ylim()
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,), numticks=8))
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
                fontsize=SMALLEST,
                parse_math=False,
            )


def draw(request: FigureRequest) -> Drawn:
    """The variants of one attack that have a trace."""
    traces, rows = case_traces(request.cases())
    points = trajectories_points(traces)
    notes = () if _SCORE in set(points["quantity"]) else ("no PSNR: these traces hold losses alone",)
    setting = setting_text(rows.assign(n=rows["n_images"]))
    return Drawn(
        trajectories_figure(points, setting=f"{rows['attack'].iloc[0]} without a defense, {setting}", paper=request.paper),
        notes,
    )
