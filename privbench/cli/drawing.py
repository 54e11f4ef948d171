"""From the results of cases to comparison pictures: the one place where runs and figures meet."""

from collections.abc import Sequence

from privbench.cli.labels import defense_label
from privbench.cli.tables import caption
from privbench.core import Case
from privbench.figures import ComparisonRow, DefenseColumn, comparison_figure, defenses_figure, figure_png
from privbench.runs.pictures import ShownCase

__all__ = ["draw_case", "draw_defenses"]


def draw_case(shown: ShownCase) -> bytes:
    """The comparison picture of one case, PNG."""
    rows = [
        ComparisonRow(result.image, original, fed, reconstruction, caption(result))
        for result, original, fed, reconstruction in zip(
            shown.results, shown.originals, shown.fed, shown.reconstructions, strict=True
        )
    ]
    return figure_png(comparison_figure(rows, title=f"{defense_label(shown.case)}: {_setting(shown.case)}"))


def draw_defenses(shown: Sequence[ShownCase], labels: Sequence[str]) -> bytes:
    """The comparison picture of several defenses on the same images, PNG."""
    columns = [
        DefenseColumn(label, case.fed, case.reconstructions, [caption(result) for result in case.results])
        for case, label in zip(shown, labels, strict=True)
    ]
    first = shown[0]
    names = [result.image for result in first.results]
    return figure_png(defenses_figure(names, first.originals, columns, title=_setting(first.case)))


def _setting(case: Case) -> str:
    return f"{case.attack.name}, {case.threat_model.adversary} adversary, {case.victim.model.name}"
