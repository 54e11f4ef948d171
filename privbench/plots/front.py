"""The front between privacy and accuracy: what each defense leaves to its strongest attacker, against what it costs."""

from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from privbench.analysis.flags import is_lower_bound
from privbench.core import Ensemble, UserError
from privbench.plots.labels import label_points
from privbench.plots.strengths import by_strength, number_in
from privbench.plots.style import TEXT_WIDTH, coloured_look, literal_legend, styled
from privbench.undo import LOWER_BOUND

__all__ = ["FRONT_SETTING", "front_figure", "front_points", "share_interval"]

FRONT_SETTING = ("model", "dataset", "split", "batch_size", "labels", "model_mode")
"""Columns of the leaderboard in which the rows of one front are alike."""

_AWAY = Ensemble.given_away
"""PSNR in dB from which an image counts as given away, for an ensemble and here."""
_ADDED = "defense-added-after-training"
"""Flag of a victim that its card does not describe."""
_FILLS = ("full", "none", "bottom", "left")
"""Fillings of markers by how accuracy was found; a fifth way repeats the last."""


def share_interval(accuracy: ArrayLike, undefended: ArrayLike, n: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The 95 % interval of one accuracy as a share of another, both measured on n images.

    By the delta method on the logarithm of the ratio, of two independent binomials: stored prices hold no answer of a single
    image, so that nothing can be paired. Victims that are right on the same images would have a narrower one.

    Returns:
        Low and high, NaN where one of the accuracies is zero.
    """
    over, under, count = (np.asarray(value, dtype=float) for value in (accuracy, undefended, n))
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt((1 - over) / (count * over) + (1 - under) / (count * under))
        ratio, factor = over / under, np.exp(1.959964 * np.where(np.isfinite(error), error, np.nan))
        return ratio / factor, ratio * factor


def front_points(rows: pd.DataFrame, *, metric: str, higher_is_leakier: bool) -> pd.DataFrame:
    """One point per defense and setting: its leakiest row over all attacks and adversaries.

    Args:
        rows: A leaderboard.
        metric: Name of the leakage metric.
        higher_is_leakier: Its direction.

    Returns:
        By defense and strength: the columns of the setting, `defense`, `defense_params`, `parameter` and `strength` (that in
        which the rows of a defense differ, and its value; else its first number), `attack`, `adversary`, `leakage`, `low`,
        `high`, `n`, `recovered` (by PSNR, after the best rearrangement of patches for a metric that allows it, the image is
        back), `accuracy`, `accuracy_low`, `accuracy_high`, `accuracy_n` (NaN where unknown), `source`, `kind`, and `on_front`:
        no other point is at least as accurate and less leaky. Where any row has the accuracy of a victim that was trained under
        its defense by a recipe that an undefended one shares, the accuracy is that share of the undefended victim's, so that
        several recipes stand on one axis, with an interval of the share, and rows without it are left out (`retrained`); `kind`
        names the recipe. Else it is what was measured of the attacked victim (`price`), the same under all defenses that it is
        attacked under, or else that of its card (`card`).

        Rows that are a lower bound, because their attacker could not undo what the client did to its images, are left out.

    Raises:
        UserError: The metric is not there, rows do not compare, no row has an accuracy, or all are lower bounds.
    """
    rows = _without_lower_bounds(rows)
    columns = {f"{metric}_mean": "leakage", f"{metric}_ci_low": "low", f"{metric}_ci_high": "high"}
    if f"{metric}_mean" not in rows:
        known = [name.removesuffix("_mean") for name in map(str, rows) if name.endswith("_mean")]
        raise UserError(f"the leaderboard has no metric '{metric}'; accepted: {', '.join(known)}")
    for column in FRONT_SETTING:
        values = sorted(map(str, rows[column].unique()))
        if len(values) > 1:
            raise UserError(f"rows of different {column} do not compare ({', '.join(values)}); give a folder with one of them")
    aligned = "psnr_patch_mean" if metric.endswith("_patch") else "psnr_mean"
    psnr = pd.to_numeric(rows[aligned]) if aligned in rows else pd.Series(np.nan, index=rows.index)
    points = rows.drop(columns="accuracy").assign(
        defense_params=rows["defense_params"].fillna(""),
        leakage=rows[f"{metric}_mean"],
        low=rows[f"{metric}_ci_low"],
        high=rows[f"{metric}_ci_high"],
        n=rows["n_images"],
        psnr=psnr,
        **(_shares(rows) if rows["retrained_accuracy"].notna().any() else _measured(rows)),
    )
    points = points.dropna(subset=["leakage", "accuracy"])
    if points.empty:
        raise UserError("no row has an accuracy; measure it with `privbench evaluate --defense SPEC`, into the same folder")
    setting = ["defense", "defense_params"]
    points["recovered"] = points.groupby(setting)["psnr"].transform("max") >= _AWAY
    points = points.sort_values("leakage", ascending=not higher_is_leakier, kind="stable").drop_duplicates(setting)
    leakage = points["leakage"].to_numpy() * (1 if higher_is_leakier else -1)
    accuracy = points["accuracy"].to_numpy()
    points["on_front"] = [
        not bool(np.any((accuracy >= a) & (leakage <= worst) & ((accuracy > a) | (leakage < worst))))
        for a, worst in zip(accuracy, leakage, strict=True)
    ]
    every = rows["defense_params"].fillna("").groupby(rows["defense"]).unique()
    parts = [by_strength(group, list(every[name])) for name, group in points.groupby("defense", sort=True)]
    points = pd.concat(parts, ignore_index=True)
    named = [*setting, "parameter", "strength", "attack", "adversary", *columns.values(), "n", "recovered"]
    accuracies = ["accuracy", "accuracy_low", "accuracy_high", "accuracy_n", "source", "kind"]
    return points[[*FRONT_SETTING, *named, *accuracies, "on_front"]]


def _without_lower_bounds(rows: pd.DataFrame) -> pd.DataFrame:
    kept = ~rows["flags"].fillna("").str.split().map(is_lower_bound)
    if not kept.any():
        raise UserError(
            f"every row is a lower bound (flag {LOWER_BOUND}): its attacker could not undo what the client did to its images; "
            "run the defense with --adversary oracle, or give it the hook undo"
        )
    return rows[kept]


def _shares(rows: pd.DataFrame) -> dict[str, Any]:
    """Accuracy as a share of that of the undefended victim of the same recipe; the undefended one's own is 1 by definition."""
    accuracy, undefended, n, epochs = (
        pd.to_numeric(rows[f"retrained_{name}"]).astype(float) for name in ("accuracy", "undefended", "images", "epochs")
    )
    low, high = share_interval(accuracy, undefended, n)
    itself = (rows["defense"] == "none") & accuracy.notna()
    return {
        "accuracy": accuracy / undefended,
        "accuracy_low": np.where(itself, 1.0, low),
        "accuracy_high": np.where(itself, 1.0, high),
        "accuracy_n": n,
        "source": "retrained",
        "kind": [f"trained for {count:g} epoch{'s' if count != 1 else ''}" for count in epochs],
    }


def _measured(rows: pd.DataFrame) -> dict[str, Any]:
    """Accuracy of the attacked victim: measured under any of the defenses that it is attacked under, or else of its card.

    What was measured for the same weights, of most images, stands for all rows of one card; a victim to which the defense was
    added has none but its own.
    """
    price = {name: pd.to_numeric(rows[f"price_{name}"]).astype(float) for name in ("accuracy", "images")}
    names = {"accuracy": "price_accuracy", "accuracy_low": "price_accuracy_low", "accuracy_high": "price_accuracy_high"}
    found = pd.DataFrame({new: pd.to_numeric(rows[old]).astype(float) for new, old in names.items()}, index=rows.index)
    found["accuracy_n"] = price["images"]
    card = pd.to_numeric(rows["accuracy"]).astype(float)
    shared = card.notna() & ~rows["flags"].fillna("").str.split().map(lambda flags: _ADDED in flags)
    for _, victim in rows[shared].groupby([rows["weights"], card]):
        counts = price["images"][victim.index][price["accuracy"][victim.index].notna()]
        if not counts.empty:
            found.loc[victim.index] = found.loc[counts.index[[int(counts.argmax())]]].to_numpy()
    source = np.where(found["accuracy"].notna(), "price", "card")
    found["accuracy"] = found["accuracy"].fillna(card)
    kinds = {"price": "accuracy measured", "card": "accuracy of the victim's card"}
    return {**{str(name): found[name] for name in found}, "source": source, "kind": [kinds[name] for name in source]}


# From points to a figure

_ROW = 0.075
"""Height of a point among the images that are given away, in inches."""
_PANEL = 2.9
"""Height of the panel of the others."""
_SMALL = 6.5
"""Size of labels, in points."""


def front_figure(points: pd.DataFrame, *, label: str, higher_is_leakier: bool) -> Figure:
    """Draws what `front_points` found.

    Args:
        points: One row per point.
        label: The leakage axis, with its unit.
        higher_is_leakier: The direction of the metric; the private side is always below.

    Returns:
        A figure as wide as two columns of a paper. One marker per defense, its settings named and, where they are numbers,
        joined in order; filling says how accuracy was found. Settings that give the image away are rows above, one per defense,
        where leakage is a number beside it: they differ in accuracy alone.
    """
    points = points.reset_index(drop=True)
    away, rest = points[points["recovered"]], points[~points["recovered"]]
    # What a row names needs no marker of its own, so that those below differ without colour as long as possible.
    places = {name: place for place, name in enumerate(dict.fromkeys([*rest["defense"], *away["defense"]]))}
    kinds = _kinds(points)
    heights = [height for height, part in ((_rows_height(away), away), (_PANEL, rest)) if not part.empty]
    with styled():
        figure = Figure(figsize=(TEXT_WIDTH, sum(heights) + 0.85), layout="constrained")
        axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
        if not away.empty:
            _draw_rows(axes[0], away, places, kinds, label)
        if not rest.empty:
            _draw_panel(axes[-1], rest, places, kinds)
            axes[-1].set_ylabel(f"{label}, worst case\n← more private")
            if not higher_is_leakier:
                axes[-1].invert_yaxis()
        trained = (points["source"] == "retrained").all()
        for one in axes:
            if trained:
                one.axvline(100, color="0.85", linewidth=0.8, zorder=0)
            one.grid(axis="x", color="0.94", linewidth=0.5)
            one.set_axisbelow(True)
        share = "accuracy of a victim trained under the defense,\n% of an undefended one's by the same recipe"
        axes[-1].set_xlabel(share if trained else "accuracy of the attacked victim, %")
        figure.suptitle(_caption(points, kinds), x=0.01, ha="left", fontsize=_SMALL, color="0.3", parse_math=False)
        _key(axes[-1], rest, places, kinds, trained=bool(trained))
        if not rest.empty:
            labelled = rest[rest["strength"] != ""]
            anchors = np.column_stack([100 * labelled["accuracy"].to_numpy(float), labelled["leakage"].to_numpy(float)])
            colours = [_dark(coloured_look(places[name]).colour) for name in labelled["defense"]]
            label_points(axes[-1], anchors, list(labelled["strength"]), colours, size=_SMALL - 0.5)
    return figure


def _dark(colour: str) -> str:
    """A colour in which small letters can be read on white."""
    red, green, blue = to_rgb(colour)
    return to_hex((0.6 * red, 0.6 * green, 0.6 * blue))


def _kinds(points: pd.DataFrame) -> list[str]:
    """How accuracy was found: what most images speak for first, which is the longest recipe or a measured price."""
    order = points.groupby("kind")["accuracy_n"].max().fillna(0).sort_values(ascending=False, kind="stable")
    return [str(kind) for kind in order.index]


def _rows_height(away: pd.DataFrame) -> float:
    return sum(max(0.15, _ROW * count + 0.06) for count in away.groupby("defense").size()) + 0.1


def _draw_rows(axes: Axes, away: pd.DataFrame, places: dict[str, int], kinds: list[str], label: str) -> None:
    """A row per defense whose settings give the image away, from the weakest to the strongest, and what it is beside it."""
    top = 0.0
    names = sorted(away["defense"].unique(), key=lambda name: (name != "none", name))
    for number, name in enumerate(names):
        group = away[away["defense"] == name]
        height = max(0.15, _ROW * len(group) + 0.06)
        if number % 2:
            axes.axhspan(top, top + height, color="0.965", linewidth=0, zorder=-1)
        y = top + height / 2 + _ROW * (np.arange(len(group)) - (len(group) - 1) / 2)
        _draw_points(axes, group.assign(y=y), places[name], kinds, size=4.5)
        text = axes.text(1.01, top + height / 2, _row_text(name, group), transform=axes.get_yaxis_transform(), va="center")
        text.set(fontsize=_SMALL, parse_math=False)
        top += height
    axes.set(ylim=(top, 0), yticks=[])
    axes.spines["left"].set_visible(False)
    head = axes.text(1.01, 0, f"from the top: {label}", transform=axes.get_yaxis_transform(), va="bottom")
    head.set(fontsize=_SMALL, color="0.3", parse_math=False)
    axes.set_title(f"image given away: PSNR of {_AWAY:g} dB or more", loc="left", fontsize=7.5)
    axes.tick_params(axis="x", length=0)


def _row_text(name: str, group: pd.DataFrame) -> str:
    strengths = [text for text in group["strength"] if text]
    values = ", ".join(strengths)
    if len(strengths) > 2 and len(values) > 20:
        values = f"{strengths[0]} to {strengths[-1]}"
    parameter = group["parameter"].iloc[0]
    low, high = (_leakage(value) for value in (group["leakage"].min(), group["leakage"].max()))
    span = low if low == high else f"{low} to {high}"
    return f"{name}, {parameter} {values}: {span}" if parameter else f"{name}: {span}"


def _leakage(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.3f}"


def _draw_panel(axes: Axes, rest: pd.DataFrame, places: dict[str, int], kinds: list[str]) -> None:
    """The points that keep something, the front among them as steps."""
    front = rest[rest["on_front"]].sort_values("accuracy")
    axes.step(100 * front["accuracy"], front["leakage"], where="pre", color="0.7", linewidth=1, zorder=0)
    for name, group in rest.groupby("defense", sort=True):
        colour = coloured_look(places[str(name)]).colour
        if all(number_in(text.partition(",")[0]) is not None for text in group["strength"]):
            axes.plot(100 * group["accuracy"], group["leakage"], color=colour, linewidth=0.7, alpha=0.5, zorder=1)
        _draw_points(axes, group.assign(y=group["leakage"]), places[str(name)], kinds, size=5.5, vertical=True)


def _draw_points(axes: Axes, group: pd.DataFrame, place: int, kinds: list[str], *, size: float, vertical: bool = False) -> None:
    """Markers with their intervals, filled by the kind of accuracy."""
    for kind, part in group.groupby("kind"):
        widths = np.abs(part[["accuracy_low", "accuracy_high"]].to_numpy(float).T - part["accuracy"].to_numpy(float))
        errors = np.abs(part[["low", "high"]].to_numpy(float).T - part["leakage"].to_numpy(float))
        look = coloured_look(place)
        axes.errorbar(
            100 * part["accuracy"],
            part["y"],
            xerr=100 * np.nan_to_num(widths),
            yerr=errors if vertical else None,
            **{**look.points, **_fill(kinds.index(str(kind)), look.colour)},
            markersize=size,
            markeredgewidth=0.8,
            capsize=0,
            elinewidth=0.6,
            zorder=2,
        )


def _fill(place: int, colour: str) -> dict[str, Any]:
    style = _FILLS[min(place, len(_FILLS) - 1)]
    face = "white" if style == "none" else colour
    return {"fillstyle": "full" if style == "none" else style, "markerfacecolor": face, "markerfacecoloralt": "white"}


def _key(axes: Axes, rest: pd.DataFrame, places: dict[str, int], kinds: list[str], *, trained: bool) -> None:
    """The legend: what a marker is, and its filling where accuracies were found in several ways."""
    for name, group in rest.groupby("defense", sort=True):
        parameter = group["parameter"].iloc[0]
        label = f"{name}, {parameter}" if parameter else str(name)
        axes.plot([], [], **coloured_look(places[str(name)]).points, markersize=5.5, label=label)
    if len(kinds) > 1:
        for place, kind in enumerate(kinds):
            how = {"color": "0.4", "marker": "o", "linestyle": "none", "markersize": 5.5, "markeredgewidth": 0.8}
            axes.plot([], [], **{**how, **_fill(place, "0.4")}, label=kind)
    if rest["on_front"].sum() > 1:
        axes.plot([], [], color="0.7", linewidth=1, label="front")
    if trained:
        axes.plot([], [], color="0.85", linewidth=0.8, label="undefended")
    if axes.get_legend_handles_labels()[1]:
        literal_legend(axes, size=7)


def _caption(points: pd.DataFrame, kinds: list[str]) -> str:
    first = points.iloc[0]
    known = [(kind, points.loc[points["kind"] == kind, "accuracy_n"].dropna()) for kind in kinds]
    counts = [
        f"{_span(n)} ({kind.removeprefix('trained for ')})" if len(kinds) > 1 else _span(n) for kind, n in known if not n.empty
    ]
    whose = "of the attacked victim"
    if (points["source"] == "retrained").all():
        whose = "of a victim trained under the defense, often another than the attacked one"
    on = f", n = {', '.join(counts)} test images" if counts else ""
    text = (
        f"{first['model']}, {first['dataset']} ({first['split']}), batches of {first['batch_size']}. Leakage: of the attacked "
        f"victim by its strongest attack and adversary, mean of n = {_span(points['n'])} images. Accuracy: {whose}{on}. "
        "Bars: 95 % intervals."
    )
    return "\n".join(wrap(text, 128))


def _span(counts: pd.Series) -> str:
    counts = counts.dropna()
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
