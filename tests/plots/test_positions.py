"""The study of positions: rows that know their place are told from rows that do not, and only patches count."""

import numpy as np
import pytest
import torch

from privbench.core import UserError
from privbench.plots.positions import PositionTable, position_likeness, position_points, position_projection
from privbench.scoring import position_errors


def ordered_table() -> PositionTable:
    """A 4x4 grid whose rows are a linear image of their place."""
    places = np.stack(np.meshgrid(np.arange(4), np.arange(4), indexing="ij"), axis=-1).reshape(-1, 2).astype(float)
    return PositionTable("ordered", places @ np.random.default_rng(0).normal(size=(2, 8)) + 1.0, (4, 4))


def test_a_linear_image_of_the_place_tells_it_and_noise_does_not() -> None:
    noise = PositionTable("noise", np.random.default_rng(1).normal(size=(16, 8)), (4, 4))
    known, unknown = position_points([ordered_table(), noise]).to_dict("records")
    assert known["mean"] == pytest.approx(0, abs=1e-9)
    assert unknown["mean"] > 0.7
    assert unknown["low"] < unknown["mean"] < unknown["high"]
    assert (known["n"], unknown["n"]) == (16, 16)
    # The centre of 0 to 3 is 1.5: on average one patch away.
    assert known["chance"] == 1


def test_a_row_is_predicted_by_folds_that_lack_it() -> None:
    # As many columns as rows: a regression that saw the rows would be exact.
    rows = np.random.default_rng(2).normal(size=(16, 40))
    assert position_errors(rows, (4, 4), seed=0).min() > 1e-3


def test_likeness_is_the_cosine() -> None:
    table = PositionTable("t", np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [1.0, 1.0]]), (2, 2))
    likeness = position_likeness(table)
    assert likeness[0] == pytest.approx([1, 0, -1, 2**-0.5])
    assert likeness == pytest.approx(likeness.T)


def test_the_projection_keeps_distances_of_a_plane() -> None:
    table = ordered_table()
    plane, shares = position_projection(table)
    assert shares.sum() == pytest.approx(1)
    for one, other in ((0, 5), (3, 12)):
        assert np.linalg.norm(plane[one] - plane[other]) == pytest.approx(np.linalg.norm(table.rows[one] - table.rows[other]))


@pytest.mark.parametrize("unknown", [0, 1])
@pytest.mark.parametrize("prefix", [0, 1])
def test_class_token_and_unknown_row_are_left_out(unknown: int, prefix: int) -> None:
    rows = torch.arange(float(prefix + 9 + unknown))[None, :, None].expand(1, -1, 4)
    state = {"network.pos_embed": rows, **({"network.cls_token": torch.zeros(1, 1, 4)} if prefix else {})}
    table = PositionTable.of_state("x", state)
    assert table.grid == (3, 3)
    assert table.rows[:, 0].tolist() == list(range(prefix, prefix + 9))


def test_weights_without_positions_are_refused() -> None:
    with pytest.raises(UserError, match="x has no learned position embedding"):
        PositionTable.of_state("x", {"conv.weight": torch.zeros(1)})
    with pytest.raises(UserError, match="7 position rows, which are no square grid"):
        PositionTable.of_state("x", {"pos_embed": torch.zeros(1, 7, 4)})
