"""Figures, drawn by matplotlib's Agg without pyplot's global state, all in one style.

One module per family: a function from a table of cases to a table of points, and one from points to a figure.
"""

from privbench.plots.ablation import ablation_figure, ablation_points, objective_terms, variant_names
from privbench.plots.architectures import architectures_figure, architectures_points
from privbench.plots.front import FRONT_SETTING, front_figure, front_points
from privbench.plots.gallery import (
    ComparisonRow,
    DefenseColumn,
    GalleryRow,
    cases_figure,
    comparison_figure,
    defenses_figure,
)
from privbench.plots.leakage_map import leakage_map_figure, leakage_map_points
from privbench.plots.losses import losses_figure
from privbench.plots.mask_ratio import mask_ratio_figure, mask_ratio_points
from privbench.plots.positions import (
    PositionTable,
    position_likeness,
    position_points,
    position_projection,
    positions_figure,
)
from privbench.plots.selection import SETTING, one_setting
from privbench.plots.settings import SETTING_AXES, settings_figure, settings_points
from privbench.plots.style import figure_bytes, figure_png, metric_label, styled
from privbench.plots.trajectories import trajectories_figure, trajectories_points

__all__ = [
    "FRONT_SETTING",
    "SETTING",
    "SETTING_AXES",
    "ComparisonRow",
    "DefenseColumn",
    "GalleryRow",
    "PositionTable",
    "ablation_figure",
    "ablation_points",
    "architectures_figure",
    "architectures_points",
    "cases_figure",
    "comparison_figure",
    "defenses_figure",
    "figure_bytes",
    "figure_png",
    "front_figure",
    "front_points",
    "leakage_map_figure",
    "leakage_map_points",
    "losses_figure",
    "mask_ratio_figure",
    "mask_ratio_points",
    "metric_label",
    "objective_terms",
    "one_setting",
    "position_likeness",
    "position_points",
    "position_projection",
    "positions_figure",
    "settings_figure",
    "settings_points",
    "styled",
    "trajectories_figure",
    "trajectories_points",
    "variant_names",
]
