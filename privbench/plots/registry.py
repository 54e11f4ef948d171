"""The figures of `privbench figure`: a new one is one entry here, which names its function.

The function takes a `FigureRequest` and returns a `Drawn`. This module imports none of them, so that the help answers at once.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from privbench.plots.request import Drawn, FigureRequest

__all__ = ["FIGURES", "OPTIONS", "FigureKind", "draw_figure"]

OPTIONS = ("metric", "where", "images", "rows", "data", "weights")
"""Options that not every figure takes."""


@dataclass(frozen=True)
class FigureKind:
    """A figure by its name.

    Attributes:
        drawn_by: `module:function`.
        summary: The line that the help shows.
        options: Those of `OPTIONS` that it takes.
    """

    drawn_by: str
    summary: str
    options: tuple[str, ...] = ("metric", "where")


FIGURES: Mapping[str, FigureKind] = {
    "gallery": FigureKind(
        "privbench.plots.gallery:draw",
        "original, client's view and reconstruction, for each defense, attack and adversary",
        ("where", "images", "rows", "data"),
    ),
    "evolution": FigureKind(
        "privbench.plots.evolution:draw", "the images of one case after some of the attack's steps", ("where",)
    ),
    "trajectories": FigureKind(
        "privbench.plots.trajectories:draw",
        "losses over the steps of variants of an attack, and PSNR where it was scored; phases marked",
        ("where",),
    ),
    "ablation": FigureKind("privbench.plots.ablation:draw", "adjoint-matching without defense by the terms of its objective"),
    "mask-ratio": FigureKind(
        "privbench.plots.mask_ratio:draw", "leakage under MJP against its mask ratio, with accuracy and consistency"
    ),
    "front": FigureKind(
        "privbench.plots.front:draw",
        "privacy-utility Pareto front: what each defense leaves to its strongest attacker, and accuracy",
    ),
    "positions": FigureKind(
        "privbench.plots.positions:draw",
        "what position embeddings encode: similarity, projection, regression error",
        ("weights",),
    ),
    "settings": FigureKind(
        "privbench.plots.settings:draw", "leakage by batch size, resolution, trained or random weights, eval or train mode"
    ),
    "leakage-map": FigureKind(
        "privbench.plots.leakage_map:draw", "an attack restricted to groups of parameters (attack.layers)"
    ),
    "matrix": FigureKind("privbench.plots.matrix:draw", "every defense against every attack and adversary, as a heat map"),
    "strip": FigureKind(
        "privbench.plots.strip:draw", "the score of every single image under the strongest attack on each defense"
    ),
    "architectures": FigureKind("privbench.plots.architectures:draw", "models under the same attack"),
}
"""Name to figure."""


def draw_figure(name: str, request: "FigureRequest") -> "Drawn":
    """Draws a figure by its name.

    Args:
        name: One of `FIGURES`.
        request: From what, and for which paper.

    Raises:
        UserError: There is no such figure, or the folder has nothing for it; the line says what is needed.
    """
    if name not in FIGURES:
        from privbench.core.errors import unknown_name

        raise unknown_name("figure", name, FIGURES)
    module, _, function = FIGURES[name].drawn_by.partition(":")
    draw = cast("Callable[[FigureRequest], Drawn]", getattr(importlib.import_module(module), function))
    return replace(draw(request), title=f"privbench {name}", paper=request.paper)
