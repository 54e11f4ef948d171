"""The most likely patches: the solution itself where nothing is noisy, else the minimum of misfit and variation."""

import pytest
import torch
from torch import Tensor

from privbench.closed_form.map_estimate import likely_patches, patches_beside_hidden
from privbench.closed_form.row_space import least_squares
from privbench.closed_form.smoothness import CORRELATION_LENGTH
from privbench.closed_form.unexplained import Unexplained
from privbench.closed_form.variation import SCALES, Variation, colours
from privbench.core.patches import to_patches

SIZE, SIDE = 2, 4


def _smooth_image(generator: torch.Generator) -> Tensor:
    """Patches `[16, 12]` of one draw from a prior of smooth images."""
    places = torch.arange(SIZE * SIDE).double()[:, None]
    along = torch.linalg.cholesky(torch.exp(-torch.cdist(places, places) / CORRELATION_LENGTH))
    drawn = torch.randn(3, SIZE * SIDE, SIZE * SIDE, generator=generator, dtype=torch.float64)
    sizes = torch.tensor(SCALES, dtype=torch.float64) / SCALES[0]
    image = torch.einsum("cd,chw->dhw", colours() * sizes[:, None] * 3**0.5, along @ drawn @ along.T)
    return to_patches(image[None], SIZE).reshape(SIDE**2, -1)


def _two_tones() -> Tensor:
    """Patches `[16, 12]` of an image with one straight edge."""
    image = torch.zeros(1, 3, SIZE * SIDE, SIZE * SIDE, dtype=torch.float64)
    image[..., 3:] = 1
    return to_patches(image, SIZE).reshape(SIDE**2, -1)


def _problem(generator: torch.Generator, noise: float, width: int = 60) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients `[16, width]`, their noisy products with the patches, and the patches."""
    patches = _smooth_image(generator)
    gradients = torch.randn(SIDE**2, width, generator=generator, dtype=torch.float64)
    gradients *= torch.logspace(0, -2, SIDE**2, dtype=torch.float64)[:, None]
    target = gradients.T @ patches
    return gradients, target + noise * torch.randn(target.shape, generator=generator).double(), patches


@pytest.mark.parametrize("whole", [True, False])
def test_exact_equations_are_solved(whole: bool, generator: torch.Generator) -> None:
    gradients, target, patches = _problem(generator, 0.0)
    assert (likely_patches(gradients, target, SIZE, whole=whole) - patches).abs().max() < 1e-6


def test_where_patches_outnumber_the_width_the_open_directions_are_filled_by_what_images_look_like(
    generator: torch.Generator,
) -> None:
    patches = _two_tones()
    gradients = torch.randn(SIDE**2, 13, generator=generator, dtype=torch.float64)
    target = gradients.T @ patches
    found = likely_patches(gradients, target, SIZE, whole=True)
    shortest = least_squares(gradients.T, target, cutoff=1e-7)
    assert (gradients.T @ found - target).norm() < 1e-4 * target.norm()
    assert (found - patches).square().mean() < 0.01 * (shortest - patches).square().mean()


def test_rounding_is_seen_along_the_vector_of_ones_and_what_it_spoils_is_filled_too(generator: torch.Generator) -> None:
    """Tokens' gradients through a LayerNorm have mean zero; what mean the rounded ones have is the rounding's."""
    patches = _two_tones()
    gradients = torch.randn(SIDE**2, 15, generator=generator, dtype=torch.float64)
    gradients *= torch.logspace(0, -4, SIDE**2, dtype=torch.float64)[:, None]
    gradients -= gradients.mean(dim=1, keepdim=True)
    rounded, target = ((value * 2**12).round() / 2**12 for value in (gradients, gradients.T @ patches))
    found = likely_patches(rounded, target, SIZE, whole=True)
    shortest = least_squares(rounded.T, target, cutoff=1e-7)
    assert (found - patches).square().mean() < 0.03
    assert (shortest - patches).square().mean() > 0.3


@pytest.mark.parametrize("whole", [True, False])
def test_it_is_the_minimum_of_misfit_and_variation(whole: bool, generator: torch.Generator) -> None:
    """Of the objective itself, computed by autograd: no small step in any direction lowers it."""
    gradients, target, _ = _problem(generator, 3e-2)
    noise = Unexplained.of(gradients, target).noise(SIZE)
    found = likely_patches(gradients, target, SIZE, whole=whole)
    variation = Variation.everywhere(SIDE if whole else None, SIZE)

    def objective(patches: Tensor) -> float:
        missed = gradients.T @ patches - target
        misfit = (missed @ torch.linalg.inv(noise) * missed).sum() / 2
        return float(misfit + variation.total(patches) + 5e-3 * patches.square().sum())

    least = objective(found)
    for _ in range(20):
        step = torch.randn(found.shape, generator=generator, dtype=torch.float64)
        assert objective(found + 0.05 * step) > least
    # The rounds stop early, but near: what is left to gain is small beside what the first round gains.
    assert least < objective(least_squares(gradients.T, target, cutoff=1e-7))


def test_the_quadratic_touches_the_total_variation_from_above(generator: torch.Generator) -> None:
    patches, other = _smooth_image(generator), _smooth_image(generator)
    touching = Variation.everywhere(SIDE, SIZE).at(patches)

    def quadratic(at: Tensor) -> float:
        return float((at * touching.curvature(at)).sum() / 2)

    apart = quadratic(other) - quadratic(patches) - float(touching.total(other) - touching.total(patches))
    assert apart > 0


def test_colours_are_a_rotation_and_each_has_a_scale() -> None:
    assert torch.allclose(colours() @ colours().T, torch.eye(3).double())
    assert len(SCALES) == 3


def test_the_covariance_of_the_noise_is_read_off_what_no_solution_explains(generator: torch.Generator) -> None:
    matrix = torch.randn(4000, 16, generator=generator, dtype=torch.float64)
    mixing = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    target = torch.randn(4000, 12, generator=generator, dtype=torch.float64) @ mixing
    expected = mixing.T @ mixing
    found = Unexplained.of(matrix.T, target).noise(SIZE)
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
        patches = _two_tones() + 0.01 * torch.randn(SIDE**2, 12, generator=generator, dtype=torch.float64)
        gradients = torch.randn(SIDE**2, width, generator=generator, dtype=torch.float64)
        target = gradients.T @ patches
        gradients[hidden] = 0
        found = patches_beside_hidden(gradients, target, SIZE, whole=True)
        naive = least_squares(gradients[kept].T, target, cutoff=1e-7)
        errors[0] += float((found[kept] - patches[kept]).square().mean())
        errors[1] += float((naive - patches[kept]).square().mean())
        errors[2] += float((found[hidden] - patches[hidden]).square().mean())
    assert errors[0] < 0.4 * errors[1]
    # The edge goes through the hidden patches, and is continued there; the two tones are 1 apart.
    assert errors[2] / 5 < 0.2
