"""Exchange: patches in the wrong image of their batch are found by their borders."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from privbench.core import ComputeOptions, Progress
from privbench.core.patches import to_patches
from privbench.inversion import Adam, Constant, Exchange, Inversion, Pixels, PriorTerm, SquaredNorm, Variable
from privbench.inversion.exchange import exchanged, exchanged_rows, image_of_each_place
from privbench.inversion.loop import OptimisationLoop
from privbench.inversion.problem import Target


def smooth(images: int, generator: torch.Generator) -> Tensor:
    coarse = torch.rand(images, 3, 5, 5, generator=generator)
    return nn.functional.interpolate(coarse, 32, mode="bilinear", align_corners=True)


def mosaic(images: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Smooth images, and for each of 64 places an order of the images."""
    return smooth(images, generator), torch.stack([torch.randperm(images, generator=generator) for _ in range(64)])


@pytest.mark.parametrize("images", [2, 4])
def test_a_mosaic_is_sorted(images: int, generator: torch.Generator) -> None:
    truth, order = mosaic(images, generator)
    mixed = exchanged(truth, order, 4)
    assert not torch.equal(mixed, truth)
    found = exchanged(mixed, image_of_each_place(mixed, 4), 4)
    # Which of the images is the first nobody can tell.
    nearest = (found[:, None] - truth[None]).abs().amax(dim=(2, 3, 4))
    assert nearest.min(dim=1).values.max() == 0
    assert sorted(nearest.argmin(dim=1).tolist()) == list(range(images))


def test_sorted_images_stay_as_they_are(generator: torch.Generator) -> None:
    truth = smooth(3, generator)
    assert torch.equal(exchanged(truth, image_of_each_place(truth, 4), 4), truth)


def test_most_patches_stay_in_their_image(generator: torch.Generator) -> None:
    """What no patch has a row of, like the classification token, stays, and belongs to most of the patches."""
    truth = smooth(3, generator)
    order = torch.arange(3).repeat(64, 1)
    order[:20] = torch.tensor([1, 2, 0])
    mixed = exchanged(truth, order, 4)
    assert torch.equal(exchanged(mixed, image_of_each_place(mixed, 4), 4), truth)


def test_an_image_of_one_patch_stays(generator: torch.Generator) -> None:
    assert image_of_each_place(smooth(2, generator), 32).tolist() == [[0, 1]]


def test_equal_images_stay_as_they_are(generator: torch.Generator) -> None:
    truth = smooth(1, generator).expand(3, -1, -1, -1)
    assert torch.equal(exchanged(truth, image_of_each_place(truth, 4), 4), truth)


def test_rows_go_with_patches_and_what_stands_before_them_stays(generator: torch.Generator) -> None:
    truth, order = mosaic(2, generator)
    rows = torch.cat([torch.rand(2, 1, 48, generator=generator), to_patches(truth, 4).flatten(2)], dim=1)
    moved = exchanged_rows(rows, order, 1)
    assert torch.equal(moved[:, 0], rows[:, 0])
    assert torch.equal(moved[:, 1:], to_patches(exchanged(truth, order, 4), 4).flatten(2))


def test_the_loop_sorts_images_their_rows_and_adams_memory_of_both(generator: torch.Generator) -> None:
    def loss(parameters: Mapping[str, Tensor], images: Tensor, context: Mapping[str, Tensor]) -> Tensor:
        return images.sum() * 0 + context["rows"].sum() * 0

    truth, order = mosaic(2, generator)
    mixed = exchanged(truth, order, 4)
    exchange = Exchange(frozenset({0}), 4, {"rows": 1})
    problem = Inversion(
        simulate=loss,
        parameters={},
        matching=[],
        priors=[PriorTerm("norm", Constant(1.0), SquaredNorm())],
        steps=1,
        parametrisation=Pixels(Adam(Constant(0.1))),
        free={"rows": Variable(Adam(Constant(0.1)))},
        exchange=exchange,
    )
    rows = torch.cat([torch.zeros(2, 1, 48), to_patches(mixed, 4).flatten(2)], dim=1)
    loop = OptimisationLoop(problem, [Target({}, mixed[None], free={"rows": rows[None]})], Progress(), ComputeOptions())
    for memory in (loop.state.moving.first, loop.state.moving.second):
        memory["pixels"], memory["rows"] = mixed[None, None].clone(), rows[None, None].clone()
    loop._exchange(exchange)
    for part in (loop.state.moving.values, loop.state.moving.first, loop.state.moving.second):
        found = part["pixels"][0, 0]
        assert any(torch.equal(found, one) for one in (truth, truth.flip(0)))
        assert torch.equal(part["rows"][0, 0, :, 1:], to_patches(found, 4).flatten(2))
