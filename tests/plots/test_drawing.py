"""Every figure is drawn as vector and pixels, the same bytes from the same points, and its series differ without colour."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from privbench.drawing.style import COLUMN_WIDTH, LOOKS, SMALLEST, Paper, caption_of, figure_bytes, look
from privbench.plots.ablation import ablation_figure, ablation_points
from privbench.plots.architectures import architectures_figure, architectures_points
from privbench.plots.gallery import gallery_figure
from privbench.plots.gallery_cases import GalleryBlock, GalleryRow
from privbench.plots.leakage_map import leakage_map_figure, leakage_map_points
from privbench.plots.mask_ratio import mask_ratio_figure, mask_ratio_points
from privbench.plots.matrix import matrix_figure, matrix_points
from privbench.plots.positions import position_points, positions_figure
from privbench.plots.settings import settings_figure, settings_points
from privbench.plots.strip import strip_figure
from privbench.plots.trajectories import trajectories_figure, trajectories_points
from tests.plots.tables import LADDER, case, mjp, table
from tests.plots.test_positions import ordered_table

MASKED = table(*(mjp(10 + ratio, ratio, adversary=who) for who in ("unaware", "aware", "oracle") for ratio in (0.0, 0.5, 1.0)))
SHARE = {"mean": 0.7, "low": 0.6, "high": 0.8, "n": 100}
REPORTS = pd.DataFrame(
    [
        {"victim": victim, "model": MASKED["model"][0], "weights": weights, "measure": measure, "mask_ratio": ratio, **SHARE}
        for victim, weights in (("none", MASKED["weights"][0]), ("mjp", MASKED["weights"][0]), ("sign", "other.safetensors"))
        for measure in ("accuracy", "consistency")
        for ratio in (0.1, 0.5)
    ]
)
SETTINGS = table(
    *(case(20 - 3 * place, attack=attack, batch_size=size) for attack in ("a$b", "c") for place, size in enumerate((1, 2, 32)))
)
MODELS = table(*(case(10, model=model, attack=attack) for model in "abc" for attack in ("dlg", "idlg")))
DEFENDED = table(
    case(30, attack="dlg"), case(25, attack="dlg", adversary="aware"), mjp(12, 0.5, attack="dlg"), mjp(11, 0.5, attack="idlg")
)
SCORES = pd.DataFrame(
    [
        {"defense": name, "family": family, "score": score, "mean": 20.0, "n": 3, "model": "vit", "weights": "embedded",
         "dataset": "cifar10", "batch_size": 1, "local": "", "trains": "", "server": ""}
        for name, family in (("none", "none"), ("mjp, mask ratio 0.5", "input"))
        for score in (10.0, 20.0, 90.0)
    ]
)  # fmt: skip
LAYERS = table(*(case(10 + place, parameters={"layers": name}) for place, name in enumerate(("all", "embedding", "head"))))


def traces() -> dict[str, pd.DataFrame]:
    steps = np.arange(10, 210, 10)
    phases = np.where(steps > 100, "late", "early")
    return {
        name: pd.concat(
            [
                pd.DataFrame(
                    {"batch": batch, "step": steps, "phase": phases, "gradient": (1 + batch) / steps, "psnr": steps / factor}
                )
                for batch in range(3)
            ]
        )
        for factor, name in enumerate(("with", "without"), start=1)
    }


def gallery(**how: Any) -> Figure:
    return gallery_figure(gallery_blocks(6), caption="a $title", **how)[0]


def gallery_blocks(count: int) -> list[GalleryBlock]:
    images = list(np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8))
    view = GalleryRow("client's view", images)
    attacked = [GalleryRow(f"gradvit\n{place}", [images[0], None], ["1 dB", "2 dB"], float(place)) for place in range(count)]
    blocks = [GalleryBlock(f"defense {place}", (view, row)) for place, row in enumerate(attacked)]
    return [GalleryBlock("", (GalleryRow("original", images),)), *blocks]


DRAWN: Mapping[str, Callable[..., Figure]] = {
    "ablation": lambda **how: ablation_figure(ablation_points(table(*LADDER)), **how),
    "architectures": lambda **how: architectures_figure(architectures_points(MODELS), **how),
    "gallery": gallery,
    "leakage-map": lambda **how: leakage_map_figure(leakage_map_points(LAYERS), **how),
    "mask-ratio": lambda **how: mask_ratio_figure(
        mask_ratio_points(MASKED), mask_ratio_points(MASKED), REPORTS, metric="psnr", invariant_metric="psnr_patch", **how
    ),
    "matrix": lambda **how: matrix_figure(matrix_points(DEFENDED), **how),
    "strip": lambda **how: strip_figure(SCORES, **how),
    "positions": lambda **how: positions_figure(
        [ordered_table()] * 2, position_points([ordered_table()]).iloc[[0]].assign(n=16), **how
    ),
    "settings": lambda **how: settings_figure(settings_points(SETTINGS), **how),
    "trajectories": lambda **how: trajectories_figure(trajectories_points(traces()), **how),
}


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("paper", [Paper(COLUMN_WIDTH, "serif"), Paper(captioned=False)])
def test_a_figure_fits_its_paper_in_its_font_with_nothing_below_the_smallest_size(name: str, paper: Paper) -> None:
    figure = DRAWN[name](paper=paper)
    figure.canvas.draw()
    assert figure.get_size_inches()[0] <= paper.width
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text().strip() and text.get_visible()]
    assert min(float(text.get_fontsize()) for text in texts) >= SMALLEST
    assert {text.get_fontfamily()[0] for text in texts} == {"serif" if paper.font == "serif" else "sans-serif"}
    assert bool(figure.get_suptitle()) is paper.captioned
    assert caption_of(figure)


def test_a_pdf_says_what_it_shows_and_not_when_it_was_made() -> None:
    content = figure_bytes(DRAWN["ablation"](), "pdf", title="privbench ablation")
    for key in (b"/Title", b"/Subject", b"/Creator"):
        assert key in content
    assert b"/CreationDate" not in content


def test_a_gallery_is_at_most_a_page_and_leaves_out_what_leaks_least() -> None:
    figure, left_out = gallery_figure(gallery_blocks(40), caption="")
    assert figure.get_size_inches()[1] <= 9
    shown = {text.get_text() for text in figure.texts}
    assert 0 < left_out < 40
    assert "gradvit\n39" in shown
    assert "gradvit\n0" not in shown


def test_a_heat_map_is_darker_where_more_is_recovered_whatever_the_direction() -> None:
    for metric, dark in (("psnr", "none"), ("lpips", "mjp")):
        rows = DEFENDED.rename(columns={f"psnr_{end}": f"{metric}_{end}" for end in ("mean", "ci_low", "ci_high")})
        (axes, _) = matrix_figure(matrix_points(rows, metric=metric), metric=metric).axes
        (image,) = axes.images
        values = np.asarray(image.get_array())
        light = [image.cmap(image.norm(value))[:3] for value in values[:, 0]]
        names = [text.get_text() for text in axes.get_yticklabels()]
        assert names == ["none", "mjp"]
        assert names[int(np.argmin([sum(colour) for colour in light]))] == dark


@pytest.mark.parametrize("name", DRAWN)
def test_equal_points_give_equal_files(name: str) -> None:
    for form, start in (("pdf", b"%PDF"), ("png", b"\x89PNG")):
        first, second = (figure_bytes(DRAWN[name](), form) for _ in range(2))
        assert first == second
        assert first.startswith(start)


@pytest.mark.parametrize("name", ["architectures", "mask-ratio", "settings", "trajectories"])
def test_series_differ_in_marker_or_filling_and_lines_in_dashes_too(name: str) -> None:
    figure = DRAWN[name]()
    for axes in figure.axes:
        lines = [line for line in axes.lines if line.get_marker() not in {"None", "", "|", "_", None}]
        looks = [(line.get_marker(), to_hex(str(line.get_markerfacecolor())) == "#ffffff") for line in lines]
        assert len(set(looks)) == len(looks)
        dashes = [str(getattr(line, "_unscaled_dash_pattern")) for line in lines if line.get_linestyle() != "None"]  # noqa: B009
        assert len(set(dashes)) == len(dashes)
    assert any(len(axes.lines) > 1 for axes in figure.axes)


def test_a_legend_of_long_names_stays_on_the_page() -> None:
    short, long = (trajectories_figure(trajectories_points({name * times: trace for name, trace in traces().items()}))
                   for times in (1, 8))  # fmt: skip
    for figure in (short, long):
        figure.canvas.draw()
        (legend,) = figure.legends
        page, box = figure.bbox, legend.get_window_extent()
        assert page.x0 <= box.x0 < box.x1 <= page.x1


def test_there_are_as_many_looks_as_said_all_different_without_colour() -> None:
    assert len({(look(place).marker, look(place).filled) for place in range(LOOKS)}) == LOOKS


def test_phases_are_marked_and_the_score_is_no_loss() -> None:
    figure = DRAWN["trajectories"]()
    score, loss = figure.axes
    assert (score.get_yscale(), loss.get_yscale()) == ("linear", "log")
    assert [text.get_text() for text in score.texts] == ["early", "late"]
    assert [110, 110] in [np.asarray(line.get_xdata()).tolist() for line in score.lines]


def test_intervals_are_drawn() -> None:
    (axes,) = DRAWN["ablation"]().axes
    (bars,) = axes.collections
    assert isinstance(bars, LineCollection)
    segments = [np.asarray(segment) for segment in bars.get_segments()]
    assert [sorted(part[:, 0].tolist()) for part in segments][:2] == [[9, 12], [11, 14]]


def test_a_leakage_map_has_a_cell_with_its_interval_for_each_group() -> None:
    (axes, _) = DRAWN["leakage-map"]().axes
    assert sorted(text.get_text() for text in axes.texts) == ["10.0\n[9, 12.0]", "11.0\n[10.0, 13.0]", "12.0\n[11.0, 14.0]"]
    assert {text.get_text() for text in axes.get_yticklabels()} == {"all layers", "embedding", "head"}


def test_images_that_are_back_break_the_axis_so_that_the_others_can_be_read() -> None:
    rows = table(*(mjp(psnr, ratio) for psnr, ratio in ((90.0, 0.0), (22.0, 0.5), (12.0, 1.0))))
    points = mask_ratio_points(rows)
    figure = mask_ratio_figure(points, points, REPORTS, metric="psnr", invariant_metric="psnr_patch")
    upper, lower = figure.axes[:2]
    assert upper.get_ylim()[0] >= 40 >= lower.get_ylim()[1] - 1
    assert lower.get_ylim()[0] > 5
    low = mask_ratio_points(rows[rows["psnr_mean"] < 40])
    assert len(mask_ratio_figure(low, low, REPORTS, metric="psnr", invariant_metric="psnr_patch").axes) == 4


def test_reports_of_other_victims_than_the_attacked_are_left_out() -> None:
    points = mask_ratio_points(MASKED)
    figure = mask_ratio_figure(points, points, REPORTS, metric="psnr", invariant_metric="psnr_patch")
    labels = {label for axes in figure.axes for label in axes.get_legend_handles_labels()[1]}
    assert {"victim trained with none", "victim trained with mjp"} <= labels
    assert "victim trained with sign" not in labels


def test_on_one_column_long_labels_do_not_squeeze_the_strip() -> None:
    long = "mjp, mask ratio 0.1, smallest block 8, largest block 75"
    figure = strip_figure(SCORES.assign(defense=long), paper=Paper(COLUMN_WIDTH))
    figure.draw_without_rendering()
    assert figure.axes[0].get_window_extent().width > 0.35 * figure.bbox.width
