"""Every single image: the scores behind a mean, one dot per image, by defense."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from privbench.core import Record
from privbench.drawing.style import PAPER, SMALLEST, Paper, add_caption, literal_legend, metric_label, styled
from privbench.plots.families import FAMILIES, defense_family
from privbench.plots.request import Drawn, FigureRequest
from privbench.plots.selection import SETTING, measured, one_setting, setting_text
from privbench.plots.strengths import by_strength
from privbench.scoring import registered_metric
from privbench.store.layout import RECORD

__all__ = ["draw", "strip_figure", "strip_points"]

_SPREAD = 0.3
_FAMILIES = list(FAMILIES)


def strip_points(rows: pd.DataFrame, *, metric: str = "psnr") -> pd.DataFrame:
    """The score of each image under the strongest attack on each defense, in the one setting with most defenses.

    Args:
        rows: A table of cases with their folders.
        metric: Name of the leakage metric.

    Returns:
        `defense` (with the setting in which its rows differ), `family`, `attack`, `adversary`, `image`, `score`, `mean`,
        `n` and the columns of the setting; by family, defense and image. Failed images have the worst score, as in the mean.

    Raises:
        UserError: No case has the metric.
    """
    chosen = one_setting(measured(rows, metric), SETTING, differ_in="defense_label")
    higher = registered_metric(metric).higher_is_leakier
    chosen = chosen.sort_values("mean", ascending=not higher, kind="stable").drop_duplicates("defense_label")
    chosen = chosen.assign(family=[defense_family(name) for name in chosen["defense"]])
    chosen = chosen.assign(order=chosen["family"].map(_FAMILIES.index)).sort_values(["order", "defense"], kind="stable")
    chosen = chosen.assign(defense_params=chosen["defense_params"].fillna(""))
    groups = [group for _, group in chosen.groupby("defense", sort=False)]
    chosen = pd.concat([by_strength(group, list(group["defense_params"])) for group in groups])
    chosen["shown"] = [_name(row) for row in chosen.to_dict("records")]
    parts = []
    for row in chosen.to_dict("records"):
        scores = [(image.image, image.scores.get(metric)) for image in Record.load(row["folder"] / RECORD).images]
        part = pd.DataFrame([(name, score) for name, score in scores if score is not None], columns=["image", "score"])
        kept = {str(name): row[name] for name in (*SETTING, "family", "attack", "adversary", "mean", "n")}
        parts.append(part.assign(defense=row["shown"], **kept))
    return pd.concat(parts, ignore_index=True)


def _name(row: Mapping[Hashable, Any]) -> str:
    return f"{row['defense']}, {row['parameter']} {row['strength']}" if row["parameter"] else str(row["defense"])


def strip_figure(points: pd.DataFrame, *, metric: str = "psnr", paper: Paper = PAPER) -> Figure:
    """Draws what `strip_points` found: one row per defense, a dot per image, a bar at the mean; PSNR is cut at 60 dB."""
    names = list(dict.fromkeys(points["defense"]))
    cut = 60.0 if metric.startswith("psnr") else np.inf
    with styled(paper):
        figure = Figure(figsize=(paper.width, 1.1 + min(0.2, 8 / len(names)) * len(names)), layout="constrained")
        axes = figure.add_subplot()
        for place, name in enumerate(names):
            part = points[points["defense"] == name]
            # The same places for every image in every row; no random numbers.
            offsets = _SPREAD * np.sin(2.4 * np.arange(len(part)))
            family = str(part["family"].iloc[0])
            style: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 3.2, "markeredgewidth": 0, "alpha": 0.6}
            axes.plot(part["score"].clip(upper=cut), place + offsets, color=FAMILIES[family], **style)
            mean = min(float(part["mean"].iloc[0]), cut)
            axes.plot([mean, mean], [place - 0.4, place + 0.4], color="black", linewidth=1.3)
        for family in dict.fromkeys(points["family"]):
            axes.plot([], [], color=FAMILIES[family], marker="o", linestyle="none", markersize=4, label=family)
        axes.plot([], [], color="black", linewidth=1.3, label="mean")
        axes.set_ylim(len(names) - 0.5, -0.5)
        labels = axes.set_yticks(range(len(names)), list(map(paper.beside, names)), fontsize=SMALLEST, linespacing=0.9)
        for tick in labels:
            tick.label1.set_parse_math(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        # Wider than a narrow panel: it ends where the panel does.
        axes.set_xlabel(metric_label(metric), loc="right" if paper.is_single else "center")
        clipped = " Scores above 60 dB stand at 60." if bool((points["score"] > cut).any()) else ""
        caption = f"One dot per image under the strongest attack on each defense, {setting_text(points)}.{clipped}"
        add_caption(figure, caption, paper)
        literal_legend(figure, letters=paper.letters(0.9))
    return figure


def draw(request: FigureRequest) -> Drawn:
    """The strongest attack on each defense of the one setting with most of them."""
    points = strip_points(request.cases(), metric=request.metric)
    return Drawn(strip_figure(points, metric=request.metric, paper=request.paper))
