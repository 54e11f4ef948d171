"""Loss traces: what an attack reported of its own objective, step by step, on a logarithmic axis."""

import pandas as pd
from matplotlib.figure import Figure

from privbench.plots.style import literal_legend, styled

__all__ = ["losses_figure"]

_DASHES = ("-", "--", ":", "-.")


def losses_figure(trace: pd.DataFrame) -> Figure:
    """Draws the losses of one case.

    Args:
        trace: Indexed by step; the column `phase` and at least one loss. `psnr` is no loss, and values that are not positive
            have no place on a logarithmic axis: both are left out.

    Returns:
        A figure as wide as two columns of a paper; a vertical line where a phase begins, with its name.
    """
    losses = trace.drop(columns=["phase", *({"psnr"} & set(trace))])
    losses = losses.where(losses > 0).dropna(axis="columns", how="all")
    phases = trace["phase"]
    begins = phases[phases != phases.shift()]
    with styled():
        figure = Figure(figsize=(6.8, 2.4))
        axes = figure.add_axes((0.09, 0.17, 0.7, 0.73))
        axes.set(xlabel="step", ylabel="loss", yscale="log")
        for place, name in enumerate(losses):
            values = losses[name].dropna()
            dashes = _DASHES[place % len(_DASHES)]
            marker = "o" if len(values) == 1 else ""
            axes.plot(values.index, values, f"C{place % 7}", linestyle=dashes, marker=marker, linewidth=1.1, label=name)
        for step, phase in zip(begins.index.to_list(), begins.to_list(), strict=True):
            if step != trace.index[0]:
                axes.axvline(step, color="0.6", linewidth=0.7)
            axes.annotate(
                phase,
                xy=(step, 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, 2),
                textcoords="offset points",
                color="0.35",
                fontsize=7,
                va="bottom",
                parse_math=False,
            )
        if len(losses.columns):
            literal_legend(axes)
    return figure
