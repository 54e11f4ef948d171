"""Pairing of a batch: by assignment, once, the same for all metrics."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from privbench.scoring import MetricSuite, mse, pair, score_batch


def test_a_permuted_batch_is_put_back(photos: Callable[[int], Tensor], generator: torch.Generator) -> None:
    original = photos(32)
    order = torch.tensor([2, 0, 3, 1])
    noisy = (original[order] + 0.2 * torch.randn(original.shape, generator=generator)).clamp(0, 1)
    source = pair(noisy, original)
    assert source.dtype == torch.int64
    assert torch.equal(order[source], torch.arange(4))


def test_the_pairing_is_the_best_of_all_permutations(generator: torch.Generator) -> None:
    for _ in range(5):
        original, guess = torch.rand(5, 3, 4, 4, generator=generator), torch.rand(5, 3, 4, 4, generator=generator)
        total = {order: mse(guess[list(order)], original).sum().item() for order in itertools.permutations(range(5))}
        assert tuple(pair(guess, original).tolist()) == min(total, key=lambda order: total[order])


def test_no_reconstruction_is_used_twice() -> None:
    """One good reconstruction cannot stand for two similar originals."""
    original = torch.tensor([0.5, 0.52, 0.9]).view(3, 1, 1, 1).expand(3, 3, 4, 4)
    guess = torch.tensor([0.51, 0.0, 0.1]).view(3, 1, 1, 1).expand(3, 3, 4, 4)
    assert sorted(pair(guess, original).tolist()) == [0, 1, 2]


def test_a_permuted_exact_batch_scores_as_exact_in_every_metric(suite: MetricSuite, photos: Callable[[int], Tensor]) -> None:
    original = photos(32)
    order = torch.tensor([1, 3, 0, 2])
    scores = score_batch(original[order], original, suite)
    assert [order[image.source].item() for image in scores] == [0, 1, 2, 3]
    for metric in suite.metrics:
        assert [image.scores[metric.name] for image in scores] == pytest.approx([metric.best] * 4, abs=1e-12)


def test_all_metrics_and_both_tables_use_the_one_pairing(suite: MetricSuite, generator: torch.Generator) -> None:
    """Also where another pairing would please a single metric more."""
    # Each guess has the brightness of one original and the texture of the other.
    brightness = torch.tensor([0.2, 0.8]).view(2, 1, 1, 1)
    texture = 0.2 * torch.rand(2, 3, 32, 32, generator=generator) - 0.1
    original, guess = brightness + texture, brightness + texture.flip(0)
    scores = score_batch(guess, original, suite)
    source = torch.tensor([image.source for image in scores])
    assert torch.equal(source, pair(guess, original))
    ssim = next(metric for metric in suite.metrics if metric.name == "ssim")
    swapped, kept = ssim.compute(guess[source.flip(0)], original).mean(), ssim.compute(guess[source], original).mean()
    assert swapped > kept, "the example must be one that SSIM would pair the other way"
    for metric in suite.metrics:
        expected = metric.compute(guess[source], original).tolist()
        assert [image.scores[metric.name] for image in scores] == pytest.approx(expected, rel=1e-12)


def test_batches_that_cannot_be_paired_are_refused() -> None:
    with pytest.raises(ValueError, match=r"reconstruction has shape \(2, 3, 8, 8\), original \(3, 3, 8, 8\)"):
        pair(torch.zeros(2, 3, 8, 8), torch.zeros(3, 3, 8, 8))
