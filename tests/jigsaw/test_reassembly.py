"""Reassembly: shuffled patches are put in order by their borders alone."""

import math

import pytest
import torch
from torch import Tensor

from privbench.core.patches import rearrange, to_patches
from privbench.data import open_images
from privbench.jigsaw import reassemble

pytestmark = pytest.mark.integration


def smooth(rows: int, columns: int, size: int = 4) -> Tensor:
    """`[1, 3, height, width]`, colours that change steadily in both directions."""
    down = torch.linspace(0, 1, rows * size)[:, None].expand(-1, columns * size)
    right = torch.linspace(0, 1, columns * size).expand(rows * size, -1)
    return torch.stack([down, right, (1 - down + right**2) / 2])[None]


def photo(index: int) -> Tensor:
    return open_images("photos").load([index], 32)[0]


def put_back(image: Tensor, movable: Tensor, grid: tuple[int, int], seed: int) -> tuple[Tensor, Tensor, float, float]:
    """Shuffles the movable patches; returns their true places after reassembly, the image, and both costs."""
    generator = torch.Generator().manual_seed(seed)
    chosen, order = movable.nonzero().flatten(), torch.arange(len(movable))
    order[chosen] = chosen[torch.randperm(len(chosen), generator=generator)]
    fed = rearrange(image, order, 4)
    found = reassemble(to_patches(fed, 4)[0], grid, movable=movable, generator=generator)
    nothing = torch.zeros_like(movable)
    stays = reassemble(to_patches(fed, 4)[0], grid, movable=nothing, generator=generator)
    assert torch.equal(stays.order, torch.arange(len(movable)))
    return order[found.order], rearrange(fed, found.order, 4), found.cost, stays.cost


@pytest.mark.parametrize("grid", [(8, 8), (3, 5), (1, 6)])
def test_a_shuffled_smooth_image_comes_back_exactly(grid: tuple[int, int]) -> None:
    image = smooth(*grid)
    everywhere = torch.ones(grid[0] * grid[1], dtype=torch.bool)
    places, restored, cost, before = put_back(image, everywhere, grid, seed=3)
    assert places.tolist() == list(range(grid[0] * grid[1]))
    assert torch.equal(restored, image)
    assert cost < before


def test_a_shuffled_photo_comes_back_far_better_than_chance() -> None:
    places, _, cost, before = put_back(photo(1), torch.ones(64, dtype=torch.bool), (8, 8), seed=6)
    # A random order has one patch right on average.
    assert (places == torch.arange(64)).sum() >= 48
    assert cost < before


@pytest.mark.parametrize("seed", [0, 1])
def test_fixed_patches_never_move_and_help_the_others(seed: int) -> None:
    movable = torch.rand(64, generator=torch.Generator().manual_seed(seed)) < 0.4
    places, _, _, _ = put_back(photo(2), movable, (8, 8), seed)
    assert torch.equal(places[~movable], torch.arange(64)[~movable])
    assert sorted(places.tolist()) == list(range(64))
    assert (places == torch.arange(64))[movable].double().mean() > 0.8


def test_the_same_seed_gives_the_same_order() -> None:
    patches = to_patches(photo(3), 4)[0]
    first, second = (reassemble(patches, (8, 8), generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first.order, second.order)
    assert first.cost == second.cost


def test_patches_that_are_all_alike_give_no_reason_to_move_and_no_error() -> None:
    flat = torch.full((9, 3, 4, 4), 0.5)
    found = reassemble(flat, (3, 3), generator=torch.Generator().manual_seed(0))
    assert sorted(found.order.tolist()) == list(range(9))
    assert math.isfinite(found.cost)
    assert reassemble(flat[:1], (1, 1), generator=torch.Generator()).order.tolist() == [0]
    assert sorted(reassemble(flat[:2], (1, 2), generator=torch.Generator()).order.tolist()) == [0, 1]


def test_a_grid_that_the_patches_do_not_fill_is_refused() -> None:
    with pytest.raises(ValueError, match="8 x 8"):
        reassemble(torch.zeros(63, 3, 4, 4), (8, 8), generator=torch.Generator())
