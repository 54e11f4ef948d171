"""What trials agree on: shifted images and permuted patches are put in register before they are averaged."""

import pytest
import torch
from torch import Tensor

from privbench.core.patches import rearrange
from privbench.inversion import Adam, Consensus, ConsensusNorm, Constant, Inversion, Pixels, PriorTerm, Target, Variable
from privbench.inversion import aligned_consensus as agreed


@pytest.fixture
def photo(generator: torch.Generator) -> Tensor:
    coarse = torch.rand(1, 3, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")


def test_without_alignment_it_is_the_mean(generator: torch.Generator) -> None:
    images = torch.rand(3, 2, 3, 8, 8, generator=generator)
    assert torch.allclose(agreed(images, "none"), images.mean(0).expand(3, -1, -1, -1, -1))


def test_shifted_trials_agree_each_in_its_own_place(photo: Tensor) -> None:
    trials = torch.stack([photo, photo.roll((3, -2), dims=(2, 3))])
    assert torch.allclose(agreed(trials, "shift"), trials, atol=1e-6)
    assert (agreed(trials, "none") - trials).abs().max() > 0.1


def test_permuted_patches_agree_each_in_its_own_place(photo: Tensor, generator: torch.Generator) -> None:
    trials = torch.stack([photo, rearrange(photo, torch.randperm(64, generator=generator), 4)])
    assert torch.allclose(agreed(trials, "patches", 4), trials, atol=1e-6)


def test_shifts_too_far_to_be_true_are_not_made(photo: Tensor) -> None:
    trials = torch.stack([photo, photo.roll(16, dims=2)])
    assert torch.allclose(agreed(trials, "shift"), agreed(trials, "none"))


def test_the_engine_renews_the_consensus_and_never_moves_it(photo: Tensor, generator: torch.Generator) -> None:
    start = torch.stack([photo, torch.rand(1, 3, 32, 32, generator=generator)])
    problem = Inversion(
        simulate=lambda _parameters, images, _context: images.sum() * 0,
        parameters={},
        matching=[],
        priors=[PriorTerm("registration", Constant(1.0), ConsensusNorm("consensus", torch.ones(3, 1, 1)))],
        steps=100,
        parametrisation=Pixels(Adam(Constant(0.01))),
        free={"consensus": Variable(None)},
        consensus=Consensus("consensus", frozenset(range(0, 100, 5)), lambda images: agreed(images, "none")),
    )
    outcome = problem.solve(Target({}, start, free={"consensus": torch.zeros_like(start)}))
    # Both trials have moved to their mean, not to the zeros that stood there at first.
    assert (outcome.images - start.mean(0)).abs().max() < 0.05
