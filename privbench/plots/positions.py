"""What a position embedding encodes: likeness of its rows, their projection to a plane, and how well they tell their place.

The study of MJP (Ren et al., CVPR 2023, figures of PE similarity and PCA; regression error in five folds).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from privbench.core import UserError, build_defense, resolve_defense
from privbench.drawing.dots import draw_dots
from privbench.drawing.style import PAPER, Paper, add_caption, styled
from privbench.models import DEFAULT_MODEL, load_state, load_victim, resolve_victim
from privbench.plots.request import Drawn, FigureRequest
from privbench.scoring import bootstrap_interval, position_errors

__all__ = [
    "PositionTable",
    "position_likeness",
    "position_points",
    "position_projection",
    "position_tables",
    "positions_figure",
]

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class PositionTable:
    """The position rows of one victim's patches.

    Attributes:
        name: What to call the victim.
        rows: `[patches, width]`, row by row of the grid.
        grid: Rows and columns of patches.
    """

    name: str
    rows: Matrix
    grid: tuple[int, int]

    @classmethod
    def of_state(cls, name: str, state: Mapping[str, Tensor]) -> "PositionTable":
        """Takes the table out of a vision transformer's state; rows of a class token and MJP's unknown row are left out.

        Raises:
            UserError: There is no learned position embedding of a square grid.
        """
        tables = [key for key in state if key.rpartition(".")[2] == "pos_embed"]
        if not tables:
            raise UserError(f"{name} has no learned position embedding; give the weights of a vision transformer with one")
        table = state[tables[0]].detach().double().cpu().numpy().reshape(-1, state[tables[0]].shape[-1])
        prefix = sum(key.rpartition(".")[2] == "cls_token" for key in state)
        side = isqrt(len(table) - prefix)
        if side < 2 or len(table) - prefix - side * side > 1:
            raise UserError(f"{name} has {len(table)} position rows, which are no square grid; give another model")
        return cls(name, table[prefix : prefix + side * side], (side, side))


def position_likeness(table: PositionTable) -> Matrix:
    """Cosine similarity of every two rows, `[patches, patches]` in [-1, 1]."""
    unit = table.rows / np.linalg.norm(table.rows, axis=1, keepdims=True)
    likeness: Matrix = unit @ unit.T
    return likeness


def position_projection(table: PositionTable) -> tuple[Matrix, Matrix]:
    """The rows on their first two principal components, `[patches, 2]`, and each component's share of the variance, `[2]`.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.decomposition import PCA
    except ImportError as error:
        raise UserError(f"the study of positions needs scikit-learn ({error}); pip install 'privbench[utility]'") from None
    found = PCA(2, svd_solver="full").fit(table.rows)
    # The last bits of a product vary with where its arrays lie in memory.
    return np.round(found.transform(table.rows), 9), np.round(found.explained_variance_ratio_, 9)


def position_points(tables: Sequence[PositionTable], *, seed: int = 0) -> pd.DataFrame:
    """The regression error of each victim.

    Args:
        tables: At least one.
        seed: Of folds and bootstrap.

    Returns:
        `name`, `mean`, `low`, `high` (in patches, with a 95 % bootstrap interval over positions), `n` positions, `chance`,
        the error of always naming the centre, and `explained`, the variance share of two principal components.
    """
    points = []
    for table in tables:
        interval = bootstrap_interval(position_errors(table.rows, table.grid, seed=seed).tolist(), seed=seed)
        chance = np.mean([np.abs(np.arange(length) - (length - 1) / 2).mean() for length in table.grid])
        explained = float(position_projection(table)[1].sum())
        points.append({"name": table.name, **interval.model_dump(), "chance": float(chance), "explained": explained})
    return pd.DataFrame(points)


def positions_figure(tables: Sequence[PositionTable], points: pd.DataFrame, *, paper: Paper = PAPER) -> Figure:
    """Draws, for each victim, similarity maps and projection, and below the regression errors of all.

    Args:
        tables: At least one.
        points: Of `position_points`, in the same order.
        paper: What for.
    """
    with styled(paper):
        # Two victims are drawn no larger than three; in one column two stand beside each other.
        across = min(len(tables), 2 if paper.is_single else 4)
        down = -(-len(tables) // across)
        width = min(paper.width / across, 2.2)
        page = min(paper.width, width * across + 0.8)
        # Names and captions stay as wide as their panel.
        letters = int(width * 10)
        words_letters = 20 if paper.is_single else 2 * letters - 6
        above = down * (2 * width + 0.3)
        figure = Figure(figsize=(page, above + 1.2 + 0.22 * len(tables)), layout="constrained")
        top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=[above, 0.9 + 0.22 * len(tables)])[:, 0]
        panels = top.subplots(2 * down, across, squeeze=False)
        for place, table in enumerate(tables):
            row, column = divmod(place, across)
            panel, plane_panel = panels[2 * row, column], panels[2 * row + 1, column]
            shown = panel.imshow(_tiles(table), vmin=-1, vmax=1, cmap="gray")
            panel.set(xticks=[], yticks=[])
            panel.set_title(fill(table.name, letters), parse_math=False, fontsize=8)
            panel.set_xlabel(fill("similarity of each row to all", words_letters), fontsize=7)
            plane, shares = position_projection(table)
            _mesh(plane_panel, plane, table.grid)
            words = f"two components, {shares.sum():.0%} of the variance"
            plane_panel.set_xlabel(fill(words, max(12, words_letters)), fontsize=7)
        for panel in panels.T.reshape(across, down, 2)[:, -1][len(tables) - (down - 1) * across :].ravel():
            panel.set_axis_off()
        top.colorbar(shown, ax=list(panels[::2].ravel()), shrink=0.8, label="cosine")
        axes = bottom.subplots()
        draw_dots(axes, points, names=list(points["name"]))
        for name, chance in zip(points["name"], points["chance"], strict=True):
            place = list(points["name"]).index(name)
            axes.plot([chance, chance], [place - 0.35, place + 0.35], color="0.5", linestyle=":", linewidth=1.2)
        axes.set_xlim(0, None)
        error = "error of a linear regression to the place, patches"
        axes.set_xlabel(f"{fill(error, 34) if paper.is_single else error}\n(dotted: always the centre)")
        number = ", ".join(map(str, sorted(set(points["n"]))))
        caption = f"What position embeddings encode, n = {number} positions. Bars: 95 % intervals."
        add_caption(figure, caption, replace(paper, width=page))
    return figure


def _tiles(table: PositionTable) -> Matrix:
    """One map per position, at that position, white lines between: `[rows * (rows + 1) - 1, ...]`."""
    high, wide = table.grid
    maps = position_likeness(table).reshape(high, wide, high, wide)
    tiles = np.full((high, high + 1, wide, wide + 1), np.nan)
    tiles[:, :high, :, :wide] = maps.transpose(0, 2, 1, 3)
    return tiles.reshape(high * (high + 1), wide * (wide + 1))[:-1, :-1]


def _mesh(panel: Axes, plane: Matrix, grid: tuple[int, int]) -> None:
    """Positions joined to their neighbours, rows of the image by full lines and columns by dashed ones; the first is marked."""
    points = plane.reshape(*grid, 2)
    for row in points:
        panel.plot(row[:, 0], row[:, 1], color="C0", linewidth=0.8)
    for column in points.transpose(1, 0, 2):
        panel.plot(column[:, 0], column[:, 1], color="C1", linewidth=0.8, linestyle=(0, (3, 1.5)))
    panel.plot(plane[:, 0], plane[:, 1], "o", color="black", markersize=1.5)
    panel.plot(*points[0, 0], "s", color="black", markersize=4)
    panel.set(xticks=[], yticks=[])
    panel.set_aspect("equal", adjustable="datalim")


def position_tables(*weights: Path) -> list[PositionTable]:
    """The position rows of the embedded victims that have any, then those of weights files.

    Raises:
        UserError: A file cannot be read, or has no learned position embedding.
    """
    tables = []
    for name in ("none", "mjp"):
        defense = build_defense(resolve_defense(name))
        spec = resolve_victim(DEFAULT_MODEL, "embedded", defense)
        state = load_victim(spec, defense, generator=torch.Generator().manual_seed(0)).state_dict()
        tables.append(PositionTable.of_state(f"{name} (embedded)", state))
    return [*tables, *(PositionTable.of_state(path.stem, load_state(path)) for path in weights)]


def draw(request: FigureRequest) -> Drawn:
    """The embedded victims and those of the weights files that are asked for."""
    tables = position_tables(*request.weights)
    points = position_points(tables)
    notes = [
        f"{name}: error {mean:.3f} patches [{low:.3f}, {high:.3f}]"
        for name, mean, low, high in points[["name", "mean", "low", "high"]].itertuples(index=False)
    ]
    return Drawn(positions_figure(tables, points, paper=request.paper), tuple(notes))
