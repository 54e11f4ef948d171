"""Figures, drawn by matplotlib's Agg without pyplot's global state, all in one style."""

from privbench.figures.front import FRONT_SETTING, front_figure, front_points
from privbench.figures.gallery import ComparisonRow, DefenseColumn, comparison_figure, defenses_figure
from privbench.figures.losses import losses_figure
from privbench.figures.style import figure_bytes, figure_png, styled

__all__ = [
    "FRONT_SETTING",
    "ComparisonRow",
    "DefenseColumn",
    "comparison_figure",
    "defenses_figure",
    "figure_bytes",
    "figure_png",
    "front_figure",
    "front_points",
    "losses_figure",
    "styled",
]
