"""Two metrics in the frequency domain: the FFT2D of the masked-jigsaw paper as its authors coded it, and a plain one.

The released scorer of Ren et al. (CVPR 2023, arXiv 2205.12551) hands two complex spectra to SciPy's cosine distance, which
multiplies without conjugation. What that measures is written down at `fft2d_cosine`; it is kept to compare with their tables.
"""

import torch
from torch import Tensor

from privbench.core.metric import Metric

__all__ = ["FFT2D_COSINE", "FFT2D_MSE", "fft2d_cosine", "fft2d_mse"]

_VANISHING = 1e-12
"""Relative size below which a sum of products is rounding error."""


def fft2d_cosine(reconstruction: Tensor, original: Tensor) -> Tensor:
    """FFT2D as published: the modulus of the complex cosine distance between the two spectra.

    With U and V the two-dimensional discrete Fourier transforms of the three channels, and sums over channels and frequencies,

        min(2, |1 - sum(U V) / sqrt(sum(U U) sum(V V))|)

    where nothing is conjugated and the root is the principal one. Because the products are not conjugated, the sums are
    correlations of one image with the other REFLECTED through the origin, `height * width * sum_n u[n] v[-n]`: no inner
    product, hence no true angle. Images in [0, 1] have large means, so that even unrelated photos lie close to 0
    (scikit-image's astronaut against its coffee cup at 64 x 64: 0.0009); read this column only beside the same column of
    other rows. It equals the released code under SciPy 1.9; today's SciPy refuses complex vectors.

    Args:
        reconstruction: `[batch, 3, height, width]` in [0, 1].
        original: The same shape and range.

    Returns:
        `[batch]` float64 in [0, 2]; 0 for an exact match, 1 where the root vanishes (a black image) and the images differ.
    """
    u, v = _spectra(reconstruction, "backward"), _spectra(original, "backward")
    uv, uu, vv = (u * v).sum(dim=1), (u * u).sum(dim=1), (v * v).sum(dim=1)
    undefined = _vanishes(uu, u) | _vanishes(vv, v)
    root = torch.where(undefined, torch.ones_like(uu), torch.sqrt(uu * vv))
    distance = (1 - uv / root).abs().clamp(max=2.0)
    distance = torch.where(undefined, torch.ones_like(distance), distance)
    exact = (reconstruction == original).flatten(1).all(dim=1).to(distance.device)
    return torch.where(exact, torch.zeros_like(distance), distance)


def _vanishes(square: Tensor, spectrum: Tensor) -> Tensor:
    return square.abs() <= _VANISHING * spectrum.abs().square().sum(dim=1)


def _spectra(images: Tensor, norm: str) -> Tensor:
    spectra: Tensor = torch.fft.fft2(images.detach().cpu().double(), norm=norm)
    return spectra.flatten(1)


def fft2d_mse(reconstruction: Tensor, original: Tensor) -> Tensor:
    """Mean squared error between the AMPLITUDE spectra, `mean((|U| - |V|)^2)` over channels and frequencies.

    The transforms are unitary (divided by `sqrt(height * width)`), so Parseval's theorem puts the value on the scale of the
    pixel error: it is never above `mse`. (The squared error of the complex spectra would be `mse` itself.) It ignores the
    phase: a cyclic shift or a point reflection of the image costs nothing.

    Args:
        reconstruction: `[batch, 3, height, width]` in [0, 1].
        original: The same shape and range.

    Returns:
        `[batch]` float64 in [0, 1]; 0 for an exact match.
    """
    u, v = _spectra(reconstruction, "ortho"), _spectra(original, "ortho")
    return (u.abs() - v.abs()).square().mean(dim=1)


FFT2D_COSINE = Metric(
    name="fft2d_cosine",
    compute=fft2d_cosine,
    higher_is_leakier=False,
    worst=1.0,
    best=0.0,
    summary=(
        "FFT2D as coded by Ren et al. (CVPR 2023): modulus of the unconjugated cosine distance of the 2-D spectra; from 0 "
        "(exact) to 2, 1 where nothing correlates."
    ),
)

FFT2D_MSE = Metric(
    name="fft2d_mse",
    compute=fft2d_mse,
    higher_is_leakier=False,
    worst=1.0,
    best=0.0,
    summary="Mean squared error of the unitary 2-D amplitude spectra, blind to phase; from 0 (exact) to 1, never above mse.",
)
