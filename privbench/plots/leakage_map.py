"""Which parameters give the image away: an attack restricted to one group of parameters at a time, by layer and kind."""

import re
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from privbench.core import UserError
from privbench.drawing.heat import draw_heat
from privbench.drawing.style import PAPER, Paper, add_caption, metric_label, styled
from privbench.plots.request import Drawn, FigureRequest
from privbench.plots.selection import SETTING, measured, one_setting, setting_text
from privbench.scoring import registered_metric

__all__ = ["leakage_map_figure", "leakage_map_points"]

_GROUPS = ("all", "first-block", "embedding", "patch-embedding", "position", "attention", "mlp", "norm", "head")
_WHOLE = "all kinds"
_EVERYWHERE = "all layers"
_ATTACKS = ("gradvit", "relocation-matching")
"""Those that can be restricted to a group of parameters."""


def leakage_map_points(rows: pd.DataFrame, *, metric: str = "psnr") -> pd.DataFrame:
    """One point per group of parameters (`attack.layers`), in the one setting where most groups were measured.

    Args:
        rows: A table of cases; those of `gradvit` or `relocation-matching` without defense count.
        metric: Name of the leakage metric.

    Returns:
        `name` (the group), `layer` and `kind` (its cell in the map), `mean`, `low`, `high`, `n` and the columns of the
        setting: sets of groups first, then parts of the network, then blocks from the first to the last.

    Raises:
        UserError: Fewer than two groups, or none has the metric.
    """
    chosen = rows[rows["attack"].isin(_ATTACKS) & (rows["defense"] == "none")]
    if not chosen.empty:
        chosen = measured(chosen, metric)
        chosen = chosen.assign(
            name=[str(fields["layers"]) for fields in chosen["attack_fields"]],
            otherwise=[
                str(sorted((key, value) for key, value in fields.items() if key != "layers"))
                for fields in chosen["attack_fields"]
            ],
        )
        chosen = one_setting(chosen, [*SETTING, "adversary", "attack", "otherwise"], differ_in="name")
    if len(chosen) < 2:
        raise UserError(
            "a leakage map needs records of one attack without defense that differ in attack.layers alone; make some with "
            "`privbench run --defense none --attack gradvit:layers=embedding`, and with layers=all, on the same images"
        )
    chosen = chosen.assign(order=chosen["name"].map(_order)).sort_values("order", ignore_index=True).drop(columns="order")
    layers, kinds = zip(*map(_cell, chosen["name"]), strict=True)
    return chosen.assign(layer=layers, kind=kinds)


def _order(name: str) -> tuple[int, int, str]:
    if name in _GROUPS:
        return 0, _GROUPS.index(name), ""
    number = re.search(r"\d+", name)
    return (2, int(number[0]), name) if number else (1, 0, name)


def _cell(name: str) -> tuple[str, str]:
    """Where a group stands in the map: its layer and its kind."""
    block = re.fullmatch(r"(block-\d+)(?:[-.](.+))?", name)
    if block:
        return block[1], block[2] or _WHOLE
    if name in {"attention", "mlp", "norm"}:
        return _EVERYWHERE, name
    cells = {
        "all": (_EVERYWHERE, _WHOLE),
        "first-block": ("up to block-0", _WHOLE),
        "embedding": ("embedding", _WHOLE),
        "patch-embedding": ("embedding", "patches"),
        "position": ("embedding", "positions"),
        "head": ("head", _WHOLE),
    }
    return cells.get(name, (name, _WHOLE))


def _layer_order(name: str) -> tuple[int, int]:
    first = {"embedding": 0, "up to block-0": 1, "head": 3, _EVERYWHERE: 4}
    number = re.fullmatch(r"block-(\d+)", name)
    return (2, int(number[1])) if number else (first.get(name, 5), 0)


def leakage_map_figure(points: pd.DataFrame, *, metric: str = "psnr", paper: Paper = PAPER) -> Figure:
    """Draws what `leakage_map_points` found as a heat map: layers by kinds; white where nothing was measured."""
    layers = sorted(dict.fromkeys(points["layer"]), key=_layer_order)
    known = [_WHOLE, "patches", "positions", "attention", "mlp", "norm"]
    kinds = sorted(dict.fromkeys(points["kind"]), key=lambda kind: (known.index(kind) if kind in known else len(known), kind))
    cells = points.set_index(["layer", "kind"])
    values = np.full((len(layers), len(kinds)), np.nan)
    for (row, layer), (column, kind) in product(enumerate(layers), enumerate(kinds)):
        if (layer, kind) in cells.index:
            values[row, column] = cells.loc[(layer, kind), "mean"]
    narrow = paper.is_single
    width = min(paper.width, 1.7 + 0.85 * len(kinds))
    texts = [[_cell_text(cells, layer, kind, narrow=narrow) for kind in kinds] for layer in layers]
    with styled(paper):
        figure = Figure(figsize=(width, 1.7 + 0.36 * len(layers) if narrow else 0.9 + 0.3 * len(layers)), layout="constrained")
        axes = figure.add_subplot()
        leakier = registered_metric(metric).higher_is_leakier
        shown = draw_heat(axes, values, texts, rows=layers, columns=kinds, higher_is_leakier=leakier)
        axes.set_ylabel("gradients that are matched")
        if narrow:
            for name in axes.get_xticklabels():
                name.set(rotation=35, ha="right", rotation_mode="anchor")
        figure.colorbar(shown, ax=axes, label=metric_label(metric), shrink=0.9, location="bottom" if narrow else "right")
        caption = (
            f"{points['attack'].iloc[0]} by the gradients that it matches, {setting_text(points)}. In brackets: 95 % "
            "intervals. White: not run."
        )
        add_caption(figure, caption, replace(paper, width=width))
    return figure


def _cell_text(cells: pd.DataFrame, layer: str, kind: str, *, narrow: bool) -> str:
    if (layer, kind) not in cells.index:
        return ""
    numbers = (float(cells.loc[(layer, kind), name]) for name in ("mean", "low", "high"))  # type: ignore[arg-type]
    mean, low, high = (f"{value:.1f}" if abs(value) >= 10 else f"{value:.2g}" for value in numbers)
    return f"{mean}\n[{low},{chr(10) if narrow else ' '}{high}]"


def draw(request: FigureRequest) -> Drawn:
    """The groups of parameters that were attacked alone."""
    points = leakage_map_points(request.cases(), metric=request.metric)
    return Drawn(leakage_map_figure(points, metric=request.metric, paper=request.paper))
