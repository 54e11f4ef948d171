"""PSNR, SSIM and MSE against slow independent implementations, closed forms and their stated directions."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from privbench.core import Metric, UserError
from privbench.scoring import (
    BUILT_IN,
    PSNR_CAP,
    SSIM_WINDOW,
    MetricFactory,
    MetricSuite,
    mse,
    psnr,
    registered_metric,
    ssim,
    ssim_zero_padded,
)


def _slow_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. (2004), window by window, straight from the formula."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = 0.01**2, 0.03**2
    values = []
    for a, b in zip(x, y, strict=True):
        for top in range(a.shape[0] - 10):
            for left in range(a.shape[1] - 10):
                p, q = a[top : top + 11, left : left + 11], b[top : top + 11, left : left + 11]
                mean_p, mean_q = (window * p).sum(), (window * q).sum()
                var_p, var_q = (window * (p - mean_p) ** 2).sum(), (window * (q - mean_q) ** 2).sum()
                cov = (window * (p - mean_p) * (q - mean_q)).sum()
                luminance = (2 * mean_p * mean_q + c1) / (mean_p**2 + mean_q**2 + c1)
                values.append(luminance * (2 * cov + c2) / (var_p + var_q + c2))
    return float(np.mean(values))


def _noisy(images: Tensor, level: float, generator: torch.Generator) -> Tensor:
    return (images + level * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def test_a_constant_difference_has_its_closed_form() -> None:
    original = torch.full((2, 3, 16, 16), 0.25)
    reconstruction = original + torch.tensor([0.1, 0.5]).view(2, 1, 1, 1)
    assert mse(reconstruction, original).tolist() == pytest.approx([0.01, 0.25], rel=1e-6)
    assert psnr(reconstruction, original).tolist() == pytest.approx([20.0, 20 * math.log10(2)], rel=1e-6)
    # Constant images have no structure term: only the luminance term of SSIM is left.
    expected = [(2 * 0.25 * m + 1e-4) / (0.25**2 + m**2 + 1e-4) for m in (0.35, 0.75)]
    assert ssim(reconstruction, original).tolist() == pytest.approx(expected, rel=1e-5)


def test_psnr_and_mse_follow_their_definition_on_photos(photos: Callable[[int], Tensor], generator: torch.Generator) -> None:
    original = photos(32)
    reconstruction = _noisy(original, 0.2, generator)
    for index in range(4):
        difference = reconstruction[index].numpy().astype(np.float64) - original[index].numpy()
        error = float((difference**2).sum() / difference.size)
        assert mse(reconstruction, original)[index].item() == pytest.approx(error, rel=1e-12)
        assert psnr(reconstruction, original)[index].item() == pytest.approx(-10 * math.log10(error), rel=1e-12)


@pytest.mark.parametrize("size", [11, 17])
def test_ssim_equals_the_slow_one(size: int, photos: Callable[[int], Tensor], generator: torch.Generator) -> None:
    original = photos(size)
    reconstruction = _noisy(original, 0.1, generator)
    expected = [_slow_ssim(r.double().numpy(), o.double().numpy()) for r, o in zip(reconstruction, original, strict=True)]
    assert ssim(reconstruction, original).tolist() == pytest.approx(expected, abs=1e-10)


def test_an_inverted_image_has_negative_ssim_and_noise_has_about_none(
    photos: Callable[[int], Tensor], generator: torch.Generator
) -> None:
    original = photos(32)
    assert (ssim(1 - original, original) < -0.05).all()
    assert (ssim(torch.rand(original.shape, generator=generator), original).abs() < 0.1).all()


@pytest.mark.parametrize("size", [1, 10])
def test_images_below_the_window_of_ssim_are_refused_with_the_remedy(size: int) -> None:
    with pytest.raises(UserError, match=f"SSIM needs {SSIM_WINDOW} pixels a side, the images' shorter side has {size}; give"):
        ssim(torch.zeros(1, 3, size, size), torch.zeros(1, 3, size, size))


def test_psnr_ends_at_the_cap_which_float32_rounding_alone_reaches(generator: torch.Generator) -> None:
    original = torch.rand(2, 3, 32, 32, generator=generator, dtype=torch.float64)
    assert psnr(original, original).tolist() == [PSNR_CAP, PSNR_CAP]
    assert psnr(original.float(), original).tolist() == [PSNR_CAP, PSNR_CAP]
    assert psnr(original.half().double(), original).max().item() < 85
    # 1e-7 away is still a number, 1e-8 is the cap.
    grey = torch.full((1, 3, 16, 16), 0.5, dtype=torch.float64)
    assert psnr(grey + 1e-7, grey).item() == pytest.approx(140, abs=1e-6)
    assert psnr(grey + 1e-8, grey).item() == 150


def test_eight_bits_cost_the_textbook_amount(generator: torch.Generator) -> None:
    """Uniform rounding error of step 1/255: MSE = 1 / (12 * 255^2), 58.9 dB."""
    original = torch.rand(4, 3, 64, 64, generator=generator, dtype=torch.float64)
    rounded = (original * 255).round() / 255
    assert psnr(rounded, original).tolist() == pytest.approx([10 * math.log10(12 * 255**2)] * 4, abs=0.1)


def test_every_metric_keeps_what_its_description_says(
    suite: MetricSuite, photos: Callable[[int], Tensor], generator: torch.Generator
) -> None:
    """Exact is `best`; more noise is worse in the stated direction; black against white is no better than `worst`."""
    original = photos(32)
    slight, strong = (_noisy(original, level, generator) for level in (0.05, 0.4))
    black, white = torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)
    for metric in suite.metrics:
        sign = 1 if metric.higher_is_leakier else -1
        exact, near, far = (metric.compute(guess, original) for guess in (original, slight, strong))
        assert exact.tolist() == pytest.approx([metric.best] * 4, abs=1e-12), metric.name
        assert (sign * (exact - near) > 0).all(), metric.name
        assert (sign * (near - far) > 0).all(), metric.name
        assert sign * metric.compute(black, white).item() <= sign * metric.worst + 1e-3, metric.name
        assert sign * metric.best > sign * metric.worst


def test_one_value_per_image_that_does_not_depend_on_its_neighbours(
    suite: MetricSuite, photos: Callable[[int], Tensor], generator: torch.Generator
) -> None:
    original = photos(32)
    reconstruction = _noisy(original, 0.2, generator)
    for metric in suite.metrics:
        alone = [metric.compute(reconstruction[i : i + 1], original[i : i + 1]).item() for i in range(4)]
        together = metric.compute(reconstruction, original)
        assert together.shape == (4,)
        assert together.tolist() == pytest.approx(alone, rel=1e-9), metric.name


def test_metrics_leave_their_arguments_alone(suite: MetricSuite, photos: Callable[[int], Tensor]) -> None:
    original = photos(32)
    reconstruction = original.flip(0).clone()
    copies = original.clone(), reconstruction.clone()
    for metric in suite.metrics:
        metric.compute(reconstruction, original)
    assert torch.equal(original, copies[0])
    assert torch.equal(reconstruction, copies[1])


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_is_described_without_being_built(name: str) -> None:
    entry = registered_metric(name)
    assert isinstance(entry, Metric | MetricFactory)
    assert entry.name == name
    assert entry.unit == ("dB" if name.startswith("psnr") else "")
    assert entry.higher_is_leakier == name.startswith(("psnr", "ssim"))
    assert len(entry.summary) > 40
    assert entry.summary.endswith(".")
    assert "\n" not in entry.summary


def test_zero_padded_ssim_is_that_of_windows_that_reach_over_the_border(photos: Callable[[int], Tensor]) -> None:
    truth, guess = photos(32)[:1].double(), (0.7 * photos(32)[:1] + 0.1).double()

    def mean(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.asarray(ndimage.gaussian_filter(values, 1.5, mode="constant", truncate=5 / 1.5))

    maps = []
    for one, other in zip(guess[0].numpy(), truth[0].numpy(), strict=True):
        here, there = mean(one), mean(other)
        common = mean(one * other) - here * there
        spread = mean(one**2) - here**2 + mean(other**2) - there**2
        maps.append((2 * here * there + 1e-4) * (2 * common + 9e-4) / ((here**2 + there**2 + 1e-4) * (spread + 9e-4)))
    assert float(ssim_zero_padded(guess, truth)) == pytest.approx(np.mean(maps), abs=1e-9)
    inside = np.stack(maps)[:, 5:-5, 5:-5].mean()
    assert float(ssim(guess, truth)) == pytest.approx(inside, abs=1e-6)
    assert float(ssim_zero_padded(truth, truth)) == pytest.approx(1)
