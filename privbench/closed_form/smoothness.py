"""How the pixels of an image resemble each other, as a Gaussian prior: for what equations leave open within patches."""

import torch
from torch import Tensor

__all__ = ["CORRELATION_LENGTH", "channel_correlation", "grid_correlation", "smooth_covariance", "smooth_precision"]

CORRELATION_LENGTH = 8.0
"""Pixels over which the correlation of an image falls by a factor of e, as closed forms expect it."""


def smooth_precision(patch_size: int) -> Tensor:
    """The inverse covariance by which closed forms choose among patches that explain the gradient equally well.

    Unit variance of normalised pixels, correlation `exp(-distance / 8 pixels)` within a channel and 0.9 of that between
    channels: neighbouring pixels resemble each other. It decides only what the equations leave open.

    Returns:
        `[pixels, pixels]` float64, pixels counted channel by channel.
    """
    precision: Tensor = torch.linalg.inv(smooth_covariance(patch_size))
    return precision


def smooth_covariance(patch_size: int) -> Tensor:
    """The covariance whose inverse `smooth_precision` is; `[pixels, pixels]` float64, pixels counted channel by channel."""
    return torch.kron(channel_correlation(), grid_correlation(patch_size))


def channel_correlation() -> Tensor:
    """`[3, 3]`, how pixels at one place resemble each other."""
    return torch.full((3, 3), 0.9, dtype=torch.float64).fill_diagonal_(1)


def grid_correlation(side: int, spacing: float = 1.0) -> Tensor:
    """`[places, places]`, how the points of a square grid resemble each other within a channel.

    Args:
        side: Number of rows and columns.
        spacing: Distance of neighbours in pixels.
    """
    axis = spacing * torch.arange(side, dtype=torch.float64)
    places = torch.cartesian_prod(axis, axis)
    return torch.exp(-torch.cdist(places, places) / CORRELATION_LENGTH)
