"""The animation of a case shows the originals and every guess in its order, and can be taken apart again."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from privbench.core import Case, Record, UserError
from privbench.drawing.style import COLUMN_WIDTH, Paper
from privbench.plots.registry import draw_figure
from privbench.plots.request import FigureRequest
from privbench.runner.animation import animation_frames, comparison_animation
from privbench.runner.listener import Broadcast, Listener, StepReport
from privbench.runner.pictures import read_picture
from privbench.store.layout import EVOLUTION
from privbench.watch.live_page import LIVE, LivePage


def blocks(side: int, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """An image of four colours, which lossy files keep."""
    colours = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return np.asarray(colours.repeat(side // 2, axis=0).repeat(side // 2, axis=1))


@pytest.mark.parametrize("side", [32, 224])
def test_an_animation_is_what_went_into_it(side: int) -> None:
    originals = [blocks(side, seed) for seed in range(2)]
    steps = [(step, [blocks(side, 10 * step + place) for place in range(2)]) for step in (1, 2, 3)]
    content = comparison_animation(originals, steps)
    frames = animation_frames(content, side)
    assert len(frames) == 3
    for frame, (_, guesses) in zip(frames, steps, strict=True):
        for shown, image in zip(frame, [*originals, *guesses], strict=True):
            middle = len(shown) // 4
            assert np.abs(shown[middle, middle].astype(int) - image[side // 4, side // 4]).max() < 40
    assert comparison_animation(originals, steps) == content
    assert animation_frames(b"no picture", side) == []


def test_a_case_whose_attack_shows_its_guesses_gets_an_animation_that_ends_with_the_reconstruction(
    small_case: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    case = small_case(attack="adjoint-matching:steps=30,adjoint=free", defense="none", limit=2)
    record = compute(case, output=tmp_path, group=2, draw=lambda _: b"picture")
    folder = tmp_path / case.folder
    assert EVOLUTION in record.files
    frames = animation_frames((folder / EVOLUTION).read_bytes(), 32)
    assert len(frames) == 3
    for place, image in enumerate(record.images):
        assert image.reconstruction is not None
        saved = read_picture(folder / image.reconstruction).astype(float)
        last, first = (np.abs(frames[at][2 + place] - saved).mean() for at in (-1, 0))
        assert last < 12
        assert last < first


def test_an_attack_that_shows_nothing_has_none(
    small_case: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    case = small_case()
    assert EVOLUTION not in compute(case, output=tmp_path, draw=lambda _: b"picture").files


def test_the_live_page_is_loaded_again_until_the_case_is_finished(
    small_case: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privbench.watch.live_page._INTERVAL", 0.0)
    case = small_case(attack="adjoint-matching:steps=30,adjoint=free", defense="none", limit=2)
    file = tmp_path / case.folder / LIVE
    pages: list[str] = []
    notes: list[str] = []

    class Reader(Listener):
        def step(self, case: Case, at: StepReport) -> None:
            pages.append(file.read_text(encoding="utf-8"))

    reader = Reader()
    compute(case, output=tmp_path, group=2, listener=Broadcast(reader, LivePage(tmp_path, notes.append)))
    assert all('http-equiv="refresh"' in page for page in pages)
    assert pages[-1].count("data:image/webp;base64,") == 2
    assert "step 20/30" in pages[-1]
    assert 'aria-label="loss ' in pages[-1]
    last = file.read_text(encoding="utf-8")
    assert 'http-equiv="refresh"' not in last
    assert notes == [f"live view: {file}"]
    assert "finished" in last


def test_the_figure_of_the_evolution_is_drawn_from_the_animation(
    small_case: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    compute(small_case(), output=tmp_path)
    with pytest.raises(UserError, match=r"has its comparison\.webp"):
        draw_figure("evolution", FigureRequest(tmp_path))
    case = small_case(attack="adjoint-matching:steps=30,adjoint=free", defense="none", limit=2)
    compute(case, output=tmp_path, group=2, draw=lambda _: b"picture")
    for paper in (Paper(), Paper(COLUMN_WIDTH)):
        figure = draw_figure("evolution", FigureRequest(tmp_path, paper=paper)).figure
        assert [text.get_text() for text in figure.texts if text.get_text() != figure.get_suptitle()][:4] == [
            "step 10", "step 20", "step 30", "original"
        ]  # fmt: skip
        assert len(figure.axes) == 2 * 4
