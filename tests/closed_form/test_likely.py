"""The most likely patches: the solution itself where nothing is noisy, else the posterior mean, nearer to the image."""

import pytest
import torch
from torch import Tensor

from privbench.closed_form.algebra import (
    CORRELATION_LENGTH,
    channel_correlation,
    least_squares,
    smooth_precision,
)
from privbench.closed_form.likely import _noise_covariance, _Unexplained, likely_patches, patches_beside_hidden
from privbench.core.patches import to_patches

SIZE, SIDE = 2, 4


def _along() -> Tensor:
    """`[side, side]`, correlation along a row or column of pixels."""
    places = torch.arange(SIZE * SIDE).double()[:, None]
    return torch.exp(-torch.cdist(places, places) / CORRELATION_LENGTH)


def _smooth_image(generator: torch.Generator) -> Tensor:
    """Patches `[16, 12]` of one draw from a prior of smooth images."""
    along = torch.linalg.cholesky(_along())
    drawn = torch.randn(3, SIZE * SIDE, SIZE * SIDE, generator=generator, dtype=torch.float64)
    image = torch.einsum("cd,dhw->chw", torch.linalg.cholesky(channel_correlation()), along @ drawn @ along.T)
    return to_patches(image[None], SIZE).reshape(SIDE**2, -1)


def _problem(generator: torch.Generator, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients `[16, 60]`, their noisy products with the patches, and the patches."""
    patches = _smooth_image(generator)
    gradients = torch.randn(SIDE**2, 60, generator=generator, dtype=torch.float64)
    gradients *= torch.logspace(0, -2, SIDE**2, dtype=torch.float64)[:, None]
    target = gradients.T @ patches
    return gradients, target + noise * torch.randn(target.shape, generator=generator).double(), patches


@pytest.mark.parametrize("whole", [True, False])
def test_exact_equations_are_solved(whole: bool, generator: torch.Generator) -> None:
    gradients, target, patches = _problem(generator, 0.0)
    assert (likely_patches(gradients, target, SIZE, whole=whole) - patches).abs().max() < 1e-6


@pytest.mark.parametrize("whole", [True, False])
def test_it_is_the_mean_of_the_posterior(whole: bool, generator: torch.Generator) -> None:
    """Against one dense system for all pixels together."""
    gradients, target, _ = _problem(generator, 1e-2)
    weights = torch.linalg.inv(_noise_covariance(_Unexplained.of(gradients, target), smooth_precision(SIZE)))
    if whole:
        covariance = torch.kron(channel_correlation(), torch.kron(_along(), _along()))
        pixels = torch.arange(len(covariance)).reshape(1, 3, SIZE * SIDE, SIZE * SIDE)
        order = to_patches(pixels, SIZE).flatten()
        prior = torch.linalg.inv(covariance[order][:, order])
    else:
        prior = torch.kron(torch.eye(SIDE**2).double(), smooth_precision(SIZE).contiguous())
    normal = torch.kron((gradients @ gradients.T).contiguous(), weights.contiguous()) + prior
    expected = torch.linalg.solve(normal, (gradients @ target @ weights).flatten()).reshape(SIDE**2, -1)
    found = likely_patches(gradients, target, SIZE, whole=whole)
    assert (found - expected).norm() < 1e-3 * expected.norm()


def test_the_covariance_of_the_noise_is_read_off_what_no_solution_explains(generator: torch.Generator) -> None:
    matrix = torch.randn(4000, 16, generator=generator, dtype=torch.float64)
    mixing = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    target = torch.randn(4000, 12, generator=generator, dtype=torch.float64) @ mixing
    expected = mixing.T @ mixing
    found = _noise_covariance(_Unexplained.of(matrix.T, target), smooth_precision(SIZE))
    assert (found - expected).norm() < 0.1 * expected.norm()


def test_it_is_nearer_to_the_image_than_least_squares_and_nearest_with_all_borders(generator: torch.Generator) -> None:
    errors = torch.zeros(3)
    for _ in range(5):
        gradients, target, patches = _problem(generator, 0.1)
        found = [likely_patches(gradients, target, SIZE, whole=whole) for whole in (True, False)]
        found.append(least_squares(gradients.T, target, cutoff=1e-7))
        errors += torch.tensor([float((one - patches).square().mean()) for one in found])
    assert errors[0] < 0.95 * errors[1]
    assert errors[1] < 0.8 * errors[2]


def test_gradients_of_zero_give_grey_patches() -> None:
    found = likely_patches(torch.zeros(16, 60).double(), torch.zeros(60, 12).double(), SIZE, whole=True)
    assert not found.any()


@pytest.mark.parametrize("width", [60, 18])
def test_hidden_patches_spoil_only_what_their_contents_span(width: int, generator: torch.Generator) -> None:
    """With 60 equations all of that span shows, with 18 spare ones are fewer than hidden patches."""
    errors, hidden = torch.zeros(3), torch.tensor([5, 6, 9, 10])
    kept = torch.ones(SIDE**2, dtype=torch.bool)
    kept[hidden] = False
    for _ in range(5):
        patches = _smooth_image(generator)
        gradients = torch.randn(SIDE**2, width, generator=generator, dtype=torch.float64)
        target = gradients.T @ patches
        gradients[hidden] = 0
        found = patches_beside_hidden(gradients, target, SIZE, whole=True)
        naive = least_squares(gradients[kept].T, target, cutoff=1e-7)
        errors[0] += float((found[kept] - patches[kept]).square().mean())
        errors[1] += float((naive - patches[kept]).square().mean())
        errors[2] += float((found[hidden] - patches[hidden]).square().mean())
    assert errors[0] < 0.35 * errors[1]
    assert errors[2] / 5 < 0.7  # of the variance 1 of a pixel about which nothing is known
