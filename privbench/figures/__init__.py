"""Figures, drawn by matplotlib's Agg without pyplot's global state, all in one style."""

from privbench.figures.gallery import ComparisonRow, DefenseColumn, comparison_figure, defenses_figure
from privbench.figures.style import figure_png, styled

__all__ = ["ComparisonRow", "DefenseColumn", "comparison_figure", "defenses_figure", "figure_png", "styled"]
