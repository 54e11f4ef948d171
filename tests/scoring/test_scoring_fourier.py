"""The two metrics in the frequency domain against an explicit transform and against what they mean in pixels."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from privbench.scoring import fft2d_cosine, fft2d_mse, mse


def _explicit_transform(channel: np.ndarray) -> np.ndarray:
    """The discrete Fourier transform, frequency by frequency."""
    height, width = channel.shape
    rows, columns = np.mgrid[:height, :width]
    spectrum = np.empty((height, width), dtype=complex)
    for k in range(height):
        for l in range(width):  # noqa: E741
            spectrum[k, l] = (channel * np.exp(-2j * np.pi * (k * rows / height + l * columns / width))).sum()
    return spectrum


def _spectra(images: Tensor) -> list[np.ndarray]:
    return [np.stack([_explicit_transform(channel) for channel in image]) for image in images.double().numpy()]


def _released_scorer(u: np.ndarray, v: np.ndarray) -> float:
    """SciPy's cosine distance as it was in 2022 (products not conjugated), then the modulus, clamped to 2."""
    u, v = u.flatten(), v.flatten()
    distance = 1.0 - np.average(u * v) / np.sqrt(np.average(np.square(u)) * np.average(np.square(v)))
    return min(float(np.sqrt(distance.real**2 + distance.imag**2)), 2.0)


def _reflected(image: Tensor) -> Tensor:
    """The point reflection n -> -n, cyclic: the origin pixel stays where it is."""
    return image.flip(-2, -1).roll((1, 1), (-2, -1))


@pytest.mark.parametrize("shape", [(3, 6, 6), (3, 5, 4)])
def test_fft2d_cosine_is_the_released_formula(shape: tuple[int, int, int], generator: torch.Generator) -> None:
    u, v = torch.rand(3, *shape, generator=generator), torch.rand(3, *shape, generator=generator)
    expected = [_released_scorer(a, b) for a, b in zip(_spectra(u), _spectra(v), strict=True)]
    assert fft2d_cosine(u, v).tolist() == pytest.approx(expected, abs=1e-12)


def test_fft2d_cosine_compares_an_image_with_the_reflection_of_the_other(photos: Callable[[int], Tensor]) -> None:
    """The quirk in the docstring, computed in pixels without any transform."""
    u, v = photos(32).double(), photos(32).roll(1, 0).double()

    def correlation(a: Tensor, b: Tensor) -> Tensor:
        return (a * _reflected(b)).flatten(1).sum(dim=1)

    expected = (1 - correlation(u, v) / (correlation(u, u) * correlation(v, v)).sqrt()).abs()
    assert fft2d_cosine(u, v).tolist() == pytest.approx(expected.tolist(), abs=1e-12)


def test_fft2d_cosine_stays_finite_where_the_formula_divides_by_zero() -> None:
    black, white = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    # A single lit pixel away from the fixed points of the reflection has no correlation with its own reflection.
    dot = black.clone()
    dot[..., 2, 3] = 1
    assert fft2d_cosine(black, black).item() == 0
    assert fft2d_cosine(dot, dot).item() == 0
    assert fft2d_cosine(black, white).item() == 1
    assert fft2d_cosine(white, black).item() == 1
    assert fft2d_cosine(dot, white).item() == 1


def test_fft2d_cosine_never_leaves_its_range() -> None:
    """Without conjugation there is no Cauchy-Schwarz inequality: this pair would score about 2e3 without the clamp."""
    u = torch.zeros(1, 3, 8, 8)
    u[..., 2, 3] = 1
    u[..., 0, 0] = 0.03
    v = _reflected(u)
    assert fft2d_cosine(u, v).item() == 2


def test_fft2d_mse_is_the_error_of_the_amplitudes(generator: torch.Generator) -> None:
    u, v = torch.rand(2, 3, 6, 5, generator=generator), torch.rand(2, 3, 6, 5, generator=generator)
    expected = [((abs(a) - abs(b)) ** 2).mean() / 30 for a, b in zip(_spectra(u), _spectra(v), strict=True)]
    assert fft2d_mse(u, v).tolist() == pytest.approx(expected, rel=1e-10)


def test_fft2d_mse_is_on_the_scale_of_the_pixels_and_never_above_their_error(photos: Callable[[int], Tensor]) -> None:
    u, v = photos(32), photos(32).roll(1, 0)
    assert (fft2d_mse(u, v) <= mse(u, v) + 1e-15).all()
    # Two constant images differ in a single frequency: Parseval holds with equality.
    flat = torch.full((1, 3, 32, 32), 0.75)
    assert fft2d_mse(flat, flat / 3).item() == pytest.approx(0.25, rel=1e-12)


def test_fft2d_mse_ignores_cyclic_shifts_and_reflections_and_sees_noise(
    photos: Callable[[int], Tensor], generator: torch.Generator
) -> None:
    original = photos(32)
    shifted = original.roll((5, 9), (-2, -1))
    assert (mse(shifted, original) > 1e-3).all()
    assert (fft2d_mse(shifted, original) < 1e-12).all()
    assert (fft2d_mse(_reflected(original), original) < 1e-12).all()
    assert (fft2d_mse(torch.rand(original.shape, generator=generator), original) > 1e-2).all()
