"""What the report page shows beside its numbers: names, number formats and drawings."""

from privbench.analysis.score_text import METRICS, value_text
from privbench.core.labels import attack_label, defense_label
from privbench.drawing.image_grid import comparison_cells
from privbench.plots.case_pictures import draw_fronts
from privbench.report.page import Presentation

__all__ = ["presentation"]


def presentation() -> Presentation:
    """Names, numbers and drawings of the page."""
    return Presentation(
        defense=defense_label,
        attack=attack_label,
        metrics=METRICS,
        number=value_text,
        comparison=comparison_cells,
        fronts=draw_fronts,
    )
