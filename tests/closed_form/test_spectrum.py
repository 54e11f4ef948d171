"""Expected singular values: exact where all gradients weigh their directions alike, and images that look like images."""

import torch
from torch import Tensor

from privbench.closed_form.spectrum import ExpectedSpectrum, smooth_images


def _orthogonal(gradient: Tensor) -> Tensor:
    left, _, right = torch.linalg.svd(gradient, full_matrices=False)
    orthogonal: Tensor = left @ right
    return orthogonal


def _alike(count: int, *, rows: int, columns: int, seed: int) -> list[Tensor]:
    """Matrices G = Q H with one H and any orthonormal Q: what NOG erases of them is always the same."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    spectrum = half @ half.T
    draws = torch.randn(count, rows, columns, generator=generator, dtype=torch.float64)
    return [torch.linalg.qr(draw).Q @ spectrum for draw in draws]


def test_a_spectrum_that_all_gradients_share_is_restored() -> None:
    *examples, private = _alike(40, rows=9, columns=5, seed=0)
    for turned in (False, True):
        known, hidden = ([one.T for one in examples], private.T) if turned else (examples, private)
        spectrum = ExpectedSpectrum.of(known, [_orthogonal(one) for one in known])
        restored = spectrum.restored(_orthogonal(hidden))
        assert (restored - hidden).norm() < 1e-3 * hidden.norm()
        # The side on which they are alike is trusted, the other is not.
        assert spectrum.weights.argmax() == (0 if turned else 1)


def test_the_gradient_of_the_only_example_is_restored_and_zero_stays_zero() -> None:
    gradient = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    spectrum = ExpectedSpectrum.of([gradient], [_orthogonal(gradient)])
    assert torch.allclose(spectrum.restored(_orthogonal(gradient)).float(), gradient, atol=1e-4)
    assert not spectrum.restored(torch.zeros(6, 4)).any()
    nothing = ExpectedSpectrum.of([torch.zeros(6, 4)], [torch.zeros(6, 4)])
    assert not nothing.restored(_orthogonal(gradient)).any()


def test_smooth_images_are_images_whose_neighbours_are_alike() -> None:
    images = smooth_images(64, 32, generator=torch.Generator().manual_seed(2))
    assert images.shape == (64, 3, 32, 32)
    assert images.min() >= 0
    assert images.max() <= 1
    centred = images - images.mean()

    def correlation(distance: int) -> float:
        return float((centred[..., distance:] * centred[..., :-distance]).mean() / centred.square().mean())

    assert correlation(1) > 0.8 > correlation(8) > correlation(24)
    channels = images.flatten(2)
    assert torch.corrcoef(torch.stack([channels[:, 0].flatten(), channels[:, 1].flatten()]))[0, 1] > 0.8
    assert torch.equal(images, smooth_images(64, 32, generator=torch.Generator().manual_seed(2)))
