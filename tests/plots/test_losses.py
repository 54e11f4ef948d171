"""Loss traces: every loss that can stand on a logarithmic axis is drawn, phases are marked, and names are plain text."""

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from privbench.plots.losses import losses_figure
from privbench.plots.style import figure_bytes


def trace() -> pd.DataFrame:
    rows = {"phase": ["one", "one", "two"], "a": [1.0, 0.5, 0.1], "b": [-1.0, 0.0, 2.0], "negative": [-1.0, -2.0, -3.0]}
    return pd.DataFrame(rows, index=pd.Index([10, 20, 30], name="step"))


def curves(rows: pd.DataFrame) -> dict[str, list[tuple[float, float]]]:
    (axes,) = losses_figure(rows).axes
    assert axes.get_yscale() == "log"
    named = [line for line in axes.lines if isinstance(line, Line2D) and not str(line.get_label()).startswith("_")]
    return {str(line.get_label()): [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())] for line in named}


def test_positive_losses_are_drawn_at_their_steps() -> None:
    assert curves(trace()) == {"a": [(10, 1.0), (20, 0.5), (30, 0.1)], "b": [(30, 2.0)]}


def test_phases_are_marked_where_they_begin() -> None:
    (axes,) = losses_figure(trace()).axes
    assert [(text.get_text(), text.xy[0]) for text in axes.texts if hasattr(text, "xy")] == [("one", 10), ("two", 30)]
    assert [np.asarray(line.get_xdata()).tolist() for line in axes.lines if str(line.get_label()).startswith("_")] == [[30, 30]]


def test_a_name_with_a_dollar_sign_is_no_formula_and_equal_traces_give_equal_files() -> None:
    hostile = trace().rename(columns={"a": "$\\nosuchmacro$"}).assign(phase="$^$")
    first, second = (figure_bytes(losses_figure(hostile), "svg") for _ in range(2))
    assert first == second
