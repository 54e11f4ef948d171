"""Scores that a shuffle of patches cannot lower."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from privbench.core import Metric, UserError
from privbench.core.patches import rearrange
from privbench.scoring import PSNR_CAP, best_placement, metric_suite, mse, psnr, ssim


def _metric(name: str, patch_size: int) -> Metric:
    suite = metric_suite(patch_size=patch_size)
    return next(metric for metric in suite.metrics if metric.name == name)


@pytest.fixture(autouse=True)
def _offline(no_weights: Path) -> None:
    """No test here needs LPIPS."""


@pytest.mark.parametrize(("size", "patch_size"), [(32, 4), (224, 16)])
def test_a_perfect_but_shuffled_recovery_is_a_perfect_recovery(
    size: int, patch_size: int, photos: Callable[[int], Tensor], generator: torch.Generator
) -> None:
    original = photos(size)
    order = torch.randperm((size // patch_size) ** 2, generator=generator)
    shuffled = rearrange(original, order, patch_size)
    assert (psnr(shuffled, original) < 20).all()
    assert (ssim(shuffled, original) < 0.5).all()
    assert _metric("psnr_patch", patch_size).compute(shuffled, original).tolist() == [PSNR_CAP] * 4
    assert _metric("ssim_patch", patch_size).compute(shuffled, original).tolist() == pytest.approx([1.0] * 4)


def test_scores_do_not_depend_on_the_order_of_the_patches(photos: Callable[[int], Tensor], generator: torch.Generator) -> None:
    original = photos(32)
    noisy = (original + 0.1 * torch.randn(original.shape, generator=generator)).clamp(0, 1)
    shuffled = rearrange(noisy, torch.randperm(64, generator=generator), 4)
    for name in ("psnr_patch", "ssim_patch"):
        metric = _metric(name, 4)
        assert metric.compute(shuffled, original).tolist() == pytest.approx(metric.compute(noisy, original).tolist(), rel=1e-9)


def test_the_placement_is_the_best_of_all_permutations(generator: torch.Generator) -> None:
    original, guess = torch.rand(3, 3, 8, 8, generator=generator), torch.rand(3, 3, 8, 8, generator=generator)
    orders = [torch.tensor(order) for order in itertools.permutations(range(4))]
    least = torch.stack([mse(rearrange(guess, order, 4), original) for order in orders]).min(dim=0).values
    assert mse(best_placement(guess, original, 4), original).tolist() == pytest.approx(least.tolist(), rel=1e-12)


def test_the_placement_uses_every_patch_once(photos: Callable[[int], Tensor]) -> None:
    """It moves content and invents none: the pixels are the same multiset."""
    guess, original = photos(32), photos(32).roll(1, 0)
    placed = best_placement(guess, original, 8)
    assert torch.equal(placed.flatten(1).sort().values, guess.flatten(1).sort().values)
    assert not torch.equal(placed, guess)


@pytest.mark.parametrize("level", [0.02, 0.2, 1.0])
def test_psnr_patch_is_never_below_psnr(level: float, photos: Callable[[int], Tensor], generator: torch.Generator) -> None:
    original = photos(32)
    noisy = (original + level * torch.randn(original.shape, generator=generator)).clamp(0, 1)
    assert (_metric("psnr_patch", 4).compute(noisy, original) >= psnr(noisy, original) - 1e-9).all()


def test_noise_gains_little_so_that_the_score_still_tells_content_from_noise(
    photos: Callable[[int], Tensor], generator: torch.Generator
) -> None:
    """The assignment sees the truth; what it can give to an attacker without content is bounded."""
    original = photos(32)
    noise = torch.rand(original.shape, generator=generator)
    gain = _metric("psnr_patch", 4).compute(noise, original) - psnr(noise, original)
    assert (gain > 0).all()
    assert (gain < 2).all()


def test_a_patch_size_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"30x30 pixels in patches of 4; accepted: a patch size that divides"):
        best_placement(torch.zeros(1, 3, 30, 30), torch.zeros(1, 3, 30, 30), 4)


def test_without_patches_the_scores_are_missing_with_a_reason() -> None:
    for patch_size, image_size, words in ((None, 32, "vision transformer"), (5, 32, "divides"), (0, 32, "divides")):
        suite = metric_suite(patch_size=patch_size, image_size=image_size)
        for name in ("psnr_patch", "ssim_patch"):
            assert name not in suite.names
            assert words in suite.unavailable[name]
