"""Calibration pictures are what they are called, and paired differences what scipy says."""

import numpy as np
import pytest
import torch
from scipy.stats import wilcoxon

from privbench.scoring import CALIBRATION_ROWS, best_placement, calibration_pictures, paired_difference


def test_calibration_pictures_are_what_they_are_called(generator: torch.Generator) -> None:
    smooth = torch.linspace(0, 1, 16).expand(2, 3, 16, 16).clone()
    truth = (smooth + 0.05 * torch.rand(2, 3, 16, 16, generator=generator)).clamp(0, 1)
    mean, other = torch.full((3, 16, 16), 0.25), truth.flip(0)
    found = calibration_pictures(truth, mean=mean, same_class=other, patch_size=4, generator=generator)
    assert tuple(found) == tuple(CALIBRATION_ROWS)
    for picture in found.values():
        assert picture.shape == truth.shape
        assert picture.min() >= 0
        assert picture.max() <= 1
    assert found["uniform-noise"].mean().item() == pytest.approx(0.5, abs=0.05)
    assert torch.equal(found["mean-image"][1], mean)
    assert torch.equal(found["same-class"], other)
    shuffled = found["shuffled-patches"]
    assert not torch.equal(shuffled, truth)
    assert torch.allclose(best_placement(shuffled, truth, 4), truth)
    assert 0 < (found["jpeg-10"] - truth).abs().mean() < 0.1


def test_a_paired_difference_is_the_mean_of_the_differences_with_the_test_of_scipy() -> None:
    first, second = [1.0, 2.0, 3.0, 4.0, 6.0, 9.0], [1.5, 2.1, 4.0, 3.5, 8.0, 9.9]
    found = paired_difference(first, second, seed=0)
    differences = np.subtract(second, first)
    assert found.interval.mean == pytest.approx(differences.mean())
    assert found.interval.low < differences.mean() < found.interval.high
    assert found.interval.n == 6
    assert found.p == pytest.approx(wilcoxon(differences).pvalue)


def test_equal_scores_differ_by_nothing_and_unequal_numbers_are_refused() -> None:
    same = paired_difference([1.0, 2.0], [1.0, 2.0], seed=0)
    assert (same.interval.mean, same.interval.low, same.interval.high, same.p) == (0.0, 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="2 and 1 scores"):
        paired_difference([1.0, 2.0], [1.0], seed=0)
