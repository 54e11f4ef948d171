"""Every figure is drawn as vector and pixels, the same bytes from the same points, and its series differ without colour."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from privbench.plots import (
    GalleryRow,
    ablation_figure,
    ablation_points,
    architectures_figure,
    architectures_points,
    cases_figure,
    figure_bytes,
    leakage_map_figure,
    leakage_map_points,
    mask_ratio_figure,
    mask_ratio_points,
    position_points,
    positions_figure,
    settings_figure,
    settings_points,
    trajectories_figure,
    trajectories_points,
)
from privbench.plots.style import LOOKS, look
from tests.plots.tables import LADDER, case, mjp, table
from tests.plots.test_positions import ordered_table

MASKED = table(*(mjp(10 + ratio, ratio, adversary=who) for who in ("unaware", "aware", "oracle") for ratio in (0.0, 0.5, 1.0)))
SHARE = {"mean": 0.7, "low": 0.6, "high": 0.8, "n": 100}
PRICES = pd.DataFrame(
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
LAYERS = table(*(case(10 + place, parameters={"layers": name}) for place, name in enumerate(("all", "embedding", "head"))))


def traces() -> dict[str, pd.DataFrame]:
    steps = np.arange(10, 210, 10)
    phases = np.where(steps > 100, "late", "early")
    return {
        name: pd.DataFrame({"phase": phases, "gradient": 1 / steps, "psnr": steps / factor}, index=pd.Index(steps, name="step"))
        for factor, name in enumerate(("with", "without"), start=1)
    }


def gallery() -> Figure:
    images = list(np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8))
    rows = [GalleryRow("client's view", images), GalleryRow("gradvit\naware", [images[0], None], ["1 dB", "2 dB"])]
    return cases_figure([[GalleryRow("original", images)], *[rows] * 6], title="a $title")


DRAWN: Mapping[str, Callable[[], Figure]] = {
    "ablation": lambda: ablation_figure(ablation_points(table(*LADDER))),
    "architectures": lambda: architectures_figure(architectures_points(MODELS)),
    "gallery": gallery,
    "leakage-map": lambda: leakage_map_figure(leakage_map_points(LAYERS)),
    "mask-ratio": lambda: mask_ratio_figure(
        mask_ratio_points(MASKED), mask_ratio_points(MASKED), PRICES, metric="psnr", invariant_metric="psnr_patch"
    ),
    "positions": lambda: positions_figure([ordered_table()] * 2, position_points([ordered_table()]).iloc[[0]].assign(n=16)),
    "settings": lambda: settings_figure(settings_points(SETTINGS)),
    "trajectories": lambda: trajectories_figure(trajectories_points(traces())),
}


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
    (axes,) = DRAWN["leakage-map"]().axes
    (bars,) = axes.collections
    assert isinstance(bars, LineCollection)
    segments = [np.asarray(segment) for segment in bars.get_segments()]
    assert [sorted(part[:, 0].tolist()) for part in segments] == [[9, 12], [10, 13], [11, 14]]


def test_prices_of_other_victims_than_the_attacked_are_left_out() -> None:
    points = mask_ratio_points(MASKED)
    figure = mask_ratio_figure(points, points, PRICES, metric="psnr", invariant_metric="psnr_patch")
    labels = {label for axes in figure.axes for label in axes.get_legend_handles_labels()[1]}
    assert {"none", "mjp"} <= labels
    assert "sign" not in labels
