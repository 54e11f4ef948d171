"""The privacy-utility front as a figure: what each defense leaves to its strongest attacker, against what it costs."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from privbench.drawing.labels import label_points
from privbench.drawing.style import (
    PAPER,
    SMALLEST,
    Look,
    Paper,
    add_caption,
    caption_height,
    literal_legend,
    metric_label,
    styled,
)
from privbench.plots.families import FAMILIES, defense_family, family_looks
from privbench.plots.front_points import ENOUGH, FRONT_SETTING, RECOVERED, front_points
from privbench.plots.request import Drawn, FigureRequest
from privbench.plots.selection import one_setting
from privbench.plots.strengths import number_in
from privbench.scoring import registered_metric

__all__ = ["draw", "front_figure"]

_ROW = 0.075
"""Height of a point among the images that are recovered, in inches."""
_LINE = 0.15
"""Height of a line of text."""
_PANEL = 2.9
"""Height of the panel of the others."""


def front_figure(points: pd.DataFrame, *, label: str, higher_is_leakier: bool, paper: Paper = PAPER) -> Figure:
    """Draws what `front_points` found.

    Args:
        points: One row per point.
        label: The leakage axis, with its unit.
        higher_is_leakier: The direction of the metric; the private side is always below.
        paper: What for.

    Returns:
        One marker per defense in the colour of its family, its settings named and, where they are numbers, joined in order;
        hollow where the recipe of the victim is short. Settings that give the image away are rows above, one per defense,
        where leakage is a number beside it: they differ in accuracy alone.
    """
    points = points.reset_index(drop=True)
    away, rest = points[points["recovered"]], points[~points["recovered"]]
    # What a row names needs no marker of its own, so that those below differ without colour as long as possible.
    looks = family_looks([*rest["defense"], *away["defense"]])
    heights = [height for height, part in ((_rows_height(away, paper), away), (_PANEL, rest)) if not part.empty]
    with styled(paper):
        figure = Figure(figsize=(paper.width, sum(heights) + 0.95), layout="constrained")
        axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
        if not away.empty:
            _draw_rows(axes[0], away, looks, label, paper)
        if not rest.empty:
            _draw_panel(axes[-1], rest, looks)
            axes[-1].set_ylabel(f"{label}, highest leakage\n← more private")
            if not higher_is_leakier:
                axes[-1].invert_yaxis()
        trained = bool((points["source"] == "retrained").all())
        for one in axes:
            if trained:
                one.axvline(100, color="0.75", linewidth=0.8, linestyle=(0, (4, 2)), zorder=0)
            one.grid(axis="x", color="0.94", linewidth=0.5)
            one.set_axisbelow(True)
        share = "accuracy of a victim trained under the defense,\n% of an undefended one's by the same recipe"
        # Wider than a narrow panel: it begins where the panel does.
        axes[-1].set_xlabel(
            share if trained else "accuracy of the attacked victim, %", loc="left" if paper.is_single else "center"
        )
        add_caption(figure, _caption(points), paper)
        _key(axes[-1], points, rest, looks, trained=trained)
        lines = literal_legend(figure if paper.is_single or rest.empty else axes[-1], letters=paper.letters(0.9))
        if paper.is_single:
            figure.set_figheight(sum(heights) + 0.5 + caption_height(figure, paper) + 0.15 * lines)
        if not rest.empty:
            labelled = rest[rest["strength"] != ""]
            anchors = np.column_stack([100 * labelled["accuracy"].to_numpy(float), labelled["leakage"].to_numpy(float)])
            colours = [_dark(looks[name].colour) for name in labelled["defense"]]
            label_points(axes[-1], anchors, list(labelled["strength"]), colours, size=SMALLEST)
    return figure


def _dark(colour: str) -> str:
    """A colour in which small letters can be read on white."""
    red, green, blue = to_rgb(colour)
    return to_hex((0.6 * red, 0.6 * green, 0.6 * blue))


def _row_height(words: str, count: int) -> float:
    lines = words.count("\n") + 1
    return max(_LINE * (0.9 * lines if lines > 1 else 1), _ROW * count + 0.06)


def _rows_height(away: pd.DataFrame, paper: Paper) -> float:
    return sum(_row_height(_row_text(str(name), part, paper), len(part)) for name, part in away.groupby("defense")) + 0.1


def _draw_rows(axes: Axes, away: pd.DataFrame, looks: dict[str, Look], label: str, paper: Paper) -> None:
    """A row per defense whose settings give the image away, from the weakest to the strongest, and what it is beside it."""
    top = 0.0
    names = sorted(away["defense"].unique(), key=lambda name: (name != "none", name))
    for number, name in enumerate(names):
        group = away[away["defense"] == name]
        words = _row_text(name, group, paper)
        height = _row_height(words, len(group))
        if number % 2:
            axes.axhspan(top, top + height, color="0.965", linewidth=0, zorder=-1)
        y = top + height / 2 + _ROW * (np.arange(len(group)) - (len(group) - 1) / 2)
        _draw_points(axes, group.assign(y=y), looks[name], size=4.5)
        text = axes.text(1.01, top + height / 2, words, transform=axes.get_yaxis_transform(), va="center", linespacing=1.0)
        text.set(fontsize=SMALLEST, parse_math=False, color=_dark(looks[name].colour))
        top += height
    axes.set(ylim=(top, 0), yticks=[])
    axes.spines["left"].set_visible(False)
    if not paper.is_single:
        head = axes.text(1.01, 0, f"from the top: {label}", transform=axes.get_yaxis_transform(), va="bottom")
        head.set(fontsize=SMALLEST, color="0.3", parse_math=False)
    axes.set_title(f"image recovered: PSNR of {RECOVERED:g} dB or more", loc="left", fontsize=7.5)
    axes.tick_params(axis="x", length=0)


def _row_text(name: str, group: pd.DataFrame, paper: Paper) -> str:
    """Name, strengths and leakage of a row; on one column of a paper the name has a line of its own, and the rest is broken."""
    strengths = [text for text in group["strength"] if text]
    values = ", ".join(strengths)
    if len(strengths) > 2 and len(values) > 20:
        values = f"{strengths[0]} to {strengths[-1]}"
    parameter = group["parameter"].iloc[0]
    low, high = (_leakage(value) for value in (group["leakage"].min(), group["leakage"].max()))
    span = low if low == high else f"{low} to {high}"
    if paper.is_single:
        return f"{name}\n{paper.beside(f'{parameter} {values}: {span}' if parameter else span)}"
    return f"{name}, {parameter} {values}: {span}" if parameter else f"{name}: {span}"


def _leakage(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.3f}"


def _draw_panel(axes: Axes, rest: pd.DataFrame, looks: dict[str, Look]) -> None:
    """The points that keep something, the front among them as steps."""
    front = rest[rest["on_front"]].sort_values("accuracy")
    axes.step(100 * front["accuracy"], front["leakage"], where="pre", color="0.25", linewidth=1.6, alpha=0.55, zorder=0)
    for name, group in rest.groupby("defense", sort=True):
        look = looks[str(name)]
        if all(number_in(text.partition(" (")[0]) is not None for text in group["strength"]):
            axes.plot(100 * group["accuracy"], group["leakage"], color=look.colour, linewidth=0.7, alpha=0.5, zorder=1)
        _draw_points(axes, group.assign(y=group["leakage"]), look, size=5.5, vertical=True)


def _draw_points(axes: Axes, group: pd.DataFrame, look: Look, *, size: float, vertical: bool = False) -> None:
    """Markers with their intervals, hollow where the recipe is short; a wide pale bar is the interval over training runs."""
    runs = group[group["seed_low"].notna()]
    if not runs.empty:
        axes.hlines(runs["y"], 100 * runs["seed_low"], 100 * runs["seed_high"], look.colour, linewidth=4, alpha=0.3, zorder=1)
    for short, part in group.groupby("is_short"):
        widths = np.abs(part[["accuracy_low", "accuracy_high"]].to_numpy(float).T - part["accuracy"].to_numpy(float))
        errors = np.abs(part[["low", "high"]].to_numpy(float).T - part["leakage"].to_numpy(float))
        axes.errorbar(
            100 * part["accuracy"],
            part["y"],
            xerr=100 * np.nan_to_num(widths),
            yerr=errors if vertical else None,
            **{**look.points, "markerfacecolor": "white" if short else look.colour},
            markersize=size,
            markeredgewidth=0.9,
            capsize=0,
            elinewidth=0.6,
            zorder=2,
        )


def _key(axes: Axes, points: pd.DataFrame, rest: pd.DataFrame, looks: dict[str, Look], *, trained: bool) -> None:
    """The legend: what a marker is, the families' colours, and what filling and lines mean."""
    for name, group in rest.groupby("defense", sort=True):
        parameter = group["parameter"].iloc[0]
        axes.plot([], [], **looks[str(name)].points, markersize=5.5, label=f"{name}, {parameter}" if parameter else str(name))
    present = {defense_family(str(name)) for name in points["defense"]}
    if len(present) > 1:
        for family, colour in FAMILIES.items():
            if family in present - {"none"}:
                axes.plot([], [], color=colour, linewidth=4, solid_capstyle="butt", label=f"family: {family}")
    if points["is_short"].any():
        hollow: dict[str, Any] = {"color": "0.3", "marker": "o", "linestyle": "none", "markerfacecolor": "white"}
        axes.plot([], [], **hollow, markersize=5.5, label=f"hollow: short training (<{ENOUGH:.0%})")
    if rest["on_front"].sum() > 1:
        axes.plot([], [], color="0.25", linewidth=1.6, alpha=0.55, label="front")
    if trained:
        axes.plot([], [], color="0.75", linewidth=0.8, linestyle=(0, (4, 2)), label="undefended")


def _caption(points: pd.DataFrame) -> str:
    first = points.iloc[0]
    # What most images speak for first, which is the longest recipe or a measured utility report.
    order = points.groupby("kind")["accuracy_n"].max().fillna(0).sort_values(ascending=False, kind="stable")
    known = [(str(kind), points.loc[points["kind"] == kind, "accuracy_n"].dropna()) for kind in order.index]
    counts = [
        f"{_span(n)} ({kind.removeprefix('trained for ')})" if len(known) > 1 else _span(n) for kind, n in known if not n.empty
    ]
    whose = "of the attacked victim"
    if (points["source"] == "retrained").all():
        whose = "of a victim trained under the defense, often another than the attacked one"
    on = f", n = {', '.join(counts)} test images" if counts else ""
    words = [
        f"{first['model']}, {first['dataset']} ({first['split']}), batches of {first['batch_size']}. Leakage: of the attacked "
        f"victim by its strongest attack and adversary, mean of n = {_span(points['n'])} images. Accuracy: {whose}{on}. "
        f"Bars: 95 % intervals{_over_runs(points)}."
    ]
    if points["is_short"].any():
        words.append(
            f"Hollow: an undefended victim of the same recipe has less than {ENOUGH:.0%} of the accuracy of the attacked one, "
            "so that longer training may move the point."
        )
    if (points["accuracy"] > 1).any() and (points["source"] == "retrained").all():
        words.append(
            "Above 100 %: the victim trained under the defense is right more often than the undefended one of its recipe; "
            "where its bar crosses 100 % that may be chance."
        )
    return " ".join(words)


def _over_runs(points: pd.DataFrame) -> str:
    """What the wide bars are, where there are any."""
    several = points.loc[points["seed_low"].notna(), "seeds"]
    return "" if several.empty else f" over images, wide pale ones over {_span(several)} training runs, paired by seed"


def _span(counts: pd.Series) -> str:
    counts = counts.dropna()
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def draw(request: FigureRequest) -> Drawn:
    """The cases of the one setting with most defenses."""
    described = registered_metric(request.metric)
    rows = one_setting(request.cases(), [*FRONT_SETTING, "images"], differ_in="defense_label")
    points = front_points(rows, metric=request.metric, higher_is_leakier=described.higher_is_leakier)
    unmeasured = sorted(set(points.loc[points["source"] == "card", "defense"]))
    left_out = sorted(set(rows["defense"]) - set(points["defense"]))
    away = int(points["recovered"].sum())
    notes = [f"{len(points)} points, {int(points['on_front'].sum())} on the front, {away} give the image away"]
    if unmeasured:
        notes.append(
            f"accuracy of {', '.join(unmeasured)} is from the victim's card; `privbench evaluate` measures it under the defense"
        )
    if left_out:
        notes.append(f"left out, no victim was trained under them beside an undefended one: {', '.join(left_out)}")
    label = metric_label(request.metric).partition(" (")[0]
    figure = front_figure(points, label=label, higher_is_leakier=described.higher_is_leakier, paper=request.paper)
    return Drawn(figure, tuple(notes))
