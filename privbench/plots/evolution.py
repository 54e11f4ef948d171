"""The attack on its way: the first images of one case after some of its steps, between the start and the original."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from privbench.core import Record, UserError
from privbench.core.labels import attack_label, defense_label
from privbench.drawing.image_grid import Pixels, place_image
from privbench.drawing.style import PAPER, SMALLEST, Paper, add_caption, styled
from privbench.plots.request import Drawn, FigureRequest
from privbench.report.pictures import animation_steps
from privbench.runner.animation import animation_frames
from privbench.store.layout import EVOLUTION, RECORD, TRACE
from privbench.store.trace import mean_trace

__all__ = ["draw", "evolution_figure"]

_GAP = 0.04
_HEAD = 0.42
_DPI = 200


def evolution_figure(frames: list[list[Pixels]], steps: tuple[str, ...], *, caption: str, paper: Paper = PAPER) -> Figure:
    """Draws some of the frames of an animation, evenly over the steps, and the originals beside the last.

    Args:
        frames: Of `animation_frames`: the originals, then the guesses.
        steps: The step of each.
        caption: Of the figure.
        paper: What for.
    """
    columns = min(len(frames), 5 if paper.is_single else 8)
    chosen = [round(place) for place in np.linspace(0, len(frames) - 1, columns)]
    count = len(frames[0]) // 2
    side = paper.width / (columns + 1) - _GAP
    head = _HEAD if paper.captioned else 0.16
    height = head + count * (side + _GAP)
    with styled(paper):
        figure = Figure(figsize=(paper.width, height), dpi=_DPI)
        for column in range(columns + 1):
            left = column * (side + _GAP)
            word = "original" if column == columns else f"step {steps[chosen[column]]}"
            at = ((left + side / 2) / paper.width, 1 - (head - 0.03) / height)
            figure.text(*at, word, ha="center", va="bottom", fontsize=SMALLEST, parse_math=False)
            for row in range(count):
                image = frames[-1][row] if column == columns else frames[chosen[column]][count + row]
                bottom = 1 - (head + row * (side + _GAP) + side) / height
                place_image(figure, (left / paper.width, bottom, side / paper.width, side / height), image)
        add_caption(figure, caption, paper)
    return figure


def _frames(folder: Path) -> tuple[Record, list[list[Pixels]]]:
    record = Record.load(folder / RECORD)
    content = (folder / EVOLUTION).read_bytes()
    return record, animation_frames(content, record.case.victim.model.image_size)


def draw(request: FigureRequest) -> Drawn:
    """Of the cases that have an animation the one that leaks most."""
    rows = request.cases()
    rows = rows[[(folder / EVOLUTION).is_file() for folder in rows["folder"]]]
    if rows.empty:
        raise UserError(
            f"no case below {request.records} has its {EVOLUTION}; attacks by optimisation write one, such as "
            "`privbench run --defense none`"
        )
    folder = rows.sort_values("psnr_mean", ascending=False, kind="stable")["folder"].iloc[0]
    record, frames = _frames(folder)
    if not frames:
        raise UserError(f"{folder / EVOLUTION} is no animation of privbench; compute the case again with --force")
    trace = mean_trace(folder / TRACE) if (folder / TRACE).is_file() else pd.DataFrame()
    case = record.case
    caption = (
        f"{attack_label(case)} on its way, {case.threat_model.adversary} adversary, defense {defense_label(case)}, "
        f"{case.victim.model.name}, {Path(case.data.source).name}."
    )
    notes = (f"case {record.case_id} of {len(rows)} with an animation; --where case=... chooses another",)
    figure = evolution_figure(frames, animation_steps(trace, len(frames)), caption=caption, paper=request.paper)
    return Drawn(figure, notes)
