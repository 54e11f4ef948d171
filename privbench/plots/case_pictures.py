"""Pictures of finished cases: the comparison beside a record, and the drawings of the report page."""

from collections.abc import Sequence

import pandas as pd

from privbench.analysis.score_text import METRICS, caption
from privbench.core import Case
from privbench.core.labels import defense_label, update_words
from privbench.drawing.image_grid import ComparisonRow, DefenseColumn, comparison_figure, defenses_figure
from privbench.drawing.style import COLUMN_WIDTH, Paper, figure_bytes, figure_png, small_png
from privbench.plots.front import front_figure
from privbench.plots.front_points import FRONT_SETTING, front_points
from privbench.runner.pictures import ShownCase

__all__ = ["draw_case", "draw_defenses", "draw_fronts"]


def draw_case(shown: ShownCase) -> bytes:
    """The comparison picture of one case, PNG."""
    rows = [
        ComparisonRow(result.image, original, fed, reconstruction, caption(result))
        for result, original, fed, reconstruction in zip(
            shown.results, shown.originals, shown.fed, shown.reconstructions, strict=True
        )
    ]
    return small_png(figure_png(comparison_figure(rows, title=f"{defense_label(shown.case)}: {_setting(shown.case)}")))


def draw_defenses(shown: Sequence[ShownCase], labels: Sequence[str]) -> bytes:
    """The comparison picture of several defenses on the same images, PNG."""
    columns = [
        DefenseColumn(label, case.fed, case.reconstructions, [caption(result) for result in case.results])
        for case, label in zip(shown, labels, strict=True)
    ]
    first = shown[0]
    names = [result.image for result in first.results]
    return small_png(figure_png(defenses_figure(names, first.originals, columns, title=_setting(first.case))))


def draw_fronts(rows: pd.DataFrame) -> list[tuple[str, bytes, bytes]]:
    """Privacy against accuracy: title, and SVG for a desk and for a phone, for each setting in which utility was measured."""
    drawings = []
    for _, group in rows.groupby(list(FRONT_SETTING), sort=True):
        if group[["utility_accuracy", "retrained_accuracy"]].notna().any(axis=None):
            points = front_points(group, metric="psnr", higher_is_leakier=True)
            wide, narrow = (
                figure_bytes(front_figure(points, label=METRICS["psnr"], higher_is_leakier=True, paper=paper), "svg")
                for paper in (Paper(captioned=False), Paper(COLUMN_WIDTH, captioned=False))
            )
            one = group.iloc[0]
            words = (
                f"{one['model']}, {one['dataset']} {one['split']}",
                f"batch {one['batch_size']}",
                f"labels {one['labels']}",
            )
            title = ", ".join((*words, *update_words(one["local"], one["trains"], one["server"])))
            drawings.append((title, wide, narrow))
    return drawings


def _setting(case: Case) -> str:
    return f"{case.attack.name}, {case.threat_model.adversary} adversary, {case.victim.model.name}"
