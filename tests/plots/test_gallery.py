"""Pictures show the pixels as they are, and the same picture is the same file."""

import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from privbench.drawing.image_grid import ComparisonRow, DefenseColumn, comparison_figure, defenses_figure
from privbench.drawing.style import figure_png

Pixels = NDArray[np.uint8]


def images(count: int, side: int, seed: int = 0) -> list[Pixels]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def rendered(figure: Figure) -> Pixels:
    with Image.open(io.BytesIO(figure_png(figure))) as picture:
        return np.asarray(picture.convert("RGB"))


def position(picture: Pixels, image: Pixels, factor: int) -> tuple[int, int] | None:
    """Top left corner of the image, enlarged by whole pixels, within a picture; None where it is not, exactly."""
    large = image.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = large.shape[:2]
    starts = np.argwhere((picture[: -height + 1, : -width + 1] == large[0, 0]).all(axis=2))
    for top, left in starts:
        if np.array_equal(picture[top : top + height, left : left + width], large):
            return int(top), int(left)
    return None


def rows(side: int, failed: Sequence[int] = ()) -> list[ComparisonRow]:
    originals, fed, found = (images(3, side, seed) for seed in range(3))
    return [
        ComparisonRow(f"image {place}", originals[place], fed[place], None if place in failed else found[place], "12.3 dB\nx")
        for place in range(3)
    ]


@pytest.mark.parametrize(("side", "factor"), [(32, 6), (224, 1), (50, 4)])
def test_every_pixel_of_a_comparison_is_a_square_of_its_own_colour(side: int, factor: int) -> None:
    shown = rows(side)
    picture = rendered(comparison_figure(shown, title="a title"))
    places = []
    for row in shown:
        assert row.reconstruction is not None
        found = [position(picture, image, factor) for image in (row.original, row.fed, row.reconstruction)]
        assert None not in found
        places.append(found)
    tops = [[place[0] for place in row if place] for row in places]
    lefts = [[place[1] for place in row if place] for row in places]
    assert all(len(set(row)) == 1 for row in tops)
    assert tops[0][0] < tops[1][0] < tops[2][0]
    assert lefts[0] == lefts[1] == lefts[2] == sorted(set(lefts[0]))


def test_a_failed_reconstruction_leaves_its_place_empty() -> None:
    whole, holed = (rendered(comparison_figure(rows(32, failed), title="")) for failed in ((), (1,)))
    assert whole.shape == holed.shape
    found = rows(32)[1].reconstruction
    assert found is not None
    assert position(whole, found, 6) is not None
    assert position(holed, found, 6) is None


def test_defenses_stand_side_by_side_in_their_order() -> None:
    originals = images(2, 32, 9)
    columns = [
        DefenseColumn(name, images(2, 32, seed), images(2, 32, seed + 1), ["", ""])
        for name, seed in (("none", 10), ("mjp", 20), ("no-pe", 30))
    ]
    picture = rendered(defenses_figure(["a", "b"], originals, columns, title="gradvit"))
    for row in range(2):
        expected = [originals[row]]
        for column in columns:
            found = column.reconstructions[row]
            assert found is not None
            expected += [column.fed[row], found]
        places = [position(picture, image, 4) for image in expected]
        assert None not in places
        lefts = [place[1] for place in places if place]
        assert lefts == sorted(set(lefts))


def test_a_column_must_have_an_entry_for_every_image() -> None:
    column = DefenseColumn("none", images(1, 32), images(1, 32), [""])
    with pytest.raises(ValueError, match="zip"):
        defenses_figure(["a", "b"], images(2, 32), [column], title="")


def test_the_same_figure_is_the_same_file_and_settings_stay_as_they_were() -> None:
    before = dict(mpl.rcParams)
    first = figure_png(comparison_figure(rows(32), title="a"))
    with mpl.rc_context({"font.size": 30, "savefig.dpi": 300, "savefig.bbox": "tight"}):
        second = figure_png(comparison_figure(rows(32), title="a"))
    assert first == second
    assert dict(mpl.rcParams) == before
    assert first != figure_png(comparison_figure(rows(32), title="b"))


@pytest.mark.nightly
def test_pyplot_is_not_touched() -> None:
    import subprocess
    import sys
    from pathlib import Path

    code = "import sys, privbench.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
