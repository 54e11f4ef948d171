"""Meta-layers that rest on a singular value decomposition: decorrelated batch normalisation and global covariance pooling.

They are the setting of orthogonal SVD conditioning (Song et al., TPAMI 2023, arXiv 2212.05599), where the layer in front makes
the covariance ill-conditioned. What the authors approximate by Taylor or Padé series in earlier work, the factors 1 / (λi - λj)
of an SVD's derivative, does not occur here: the square root is differentiated as a whole, with factors
1 / (sqrt λi + sqrt λj), which exist for equal eigenvalues too. It can be differentiated any number of times.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ["DecorrelatedBatchNorm", "GlobalCovariancePooling", "condition_number", "covariance", "matrix_square_root"]

_LEAST = 1e-12
"""Of eigenvalues, relative to the largest: what lies below is rounding."""


class _Sylvester(torch.autograd.Function):
    """X of S X + X S = C for symmetric S with eigenvalues above zero; its own derivative is of the same form."""

    generate_vmap_rule = True

    @staticmethod
    def forward(root: Tensor, right: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(root)
        sums = values[..., :, None] + values[..., None, :]
        inside = vectors.mT @ right @ vectors
        least = sums.abs().amax(dim=(-2, -1), keepdim=True) * _LEAST
        solution: Tensor = vectors @ (inside / torch.where(sums > least, sums, torch.inf)) @ vectors.mT
        return solution

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        root, solution = ctx.saved_tensors
        right = cast(Tensor, _Sylvester.apply(root, gradients[0]))
        product = right @ solution.mT + solution.mT @ right
        return -(product + product.mT) / 2, right


class _SquareRoot(torch.autograd.Function):
    """The square root of a symmetric matrix without negative eigenvalues, by its spectral decomposition."""

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        root: Tensor = (vectors * values.clamp(min=0).sqrt()[..., None, :]) @ vectors.mT
        return root

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:  # noqa: ARG004 (torch gives it)
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (root,) = ctx.saved_tensors
        gradient = (gradients[0] + gradients[0].mT) / 2
        return cast(Tensor, _Sylvester.apply(root, gradient))


def matrix_square_root(matrix: Tensor) -> Tensor:
    """The symmetric square root.

    Args:
        matrix: `[..., n, n]`, symmetric, eigenvalues of 0 or more; directions of eigenvalue 0 get no gradient.

    Returns:
        The same shape.
    """
    return cast(Tensor, _SquareRoot.apply(matrix))


def covariance(features: Tensor) -> Tensor:
    """Of channels over samples: `[..., channels, samples]`, centred here, to `[..., channels, channels]`."""
    centred = features - features.mean(dim=-1, keepdim=True)
    return centred @ centred.mT / features.shape[-1]


def condition_number(matrices: Tensor) -> float:
    """The mean ratio of the largest eigenvalue to the smallest, of symmetric matrices `[..., n, n]`."""
    values = torch.linalg.eigvalsh(matrices.detach().double())
    return float((values[..., -1] / values[..., 0].clamp(min=_LEAST * values[..., -1])).mean())


class DecorrelatedBatchNorm(nn.Module):
    """Decorrelated batch normalisation by ZCA (Huang et al., CVPR 2018): channels are centred and whitened, then scaled.

    In train mode by the batch's own covariance, in eval mode by the running one.

    Args:
        channels: Of its input.
        eps: Added to the eigenvalues of the covariance (1e-2 in the authors' code).
        momentum: Weight of a batch in the running statistics.

    Attributes:
        track_running_stats: Whether a batch in train mode moves them.
    """

    running_mean: Tensor
    running_covariance: Tensor

    def __init__(self, channels: int, eps: float = 1e-2, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum, self.track_running_stats = eps, momentum, True
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_covariance", torch.eye(channels))

    def matrices(self, features: Tensor) -> Tensor:
        """The covariance of a batch, before `eps` is added: `[channels, channels]`."""
        return covariance(features.transpose(0, 1).flatten(1))

    def forward(self, features: Tensor) -> Tensor:
        """`[batch, channels, height, width]` to the same shape."""
        flat = features.transpose(0, 1).flatten(1)
        mean, matrix = self.running_mean, self.running_covariance
        if self.training:
            mean, matrix = flat.mean(dim=1), covariance(flat)
            if self.track_running_stats:
                with torch.no_grad():
                    self.running_mean.lerp_(mean, self.momentum)
                    self.running_covariance.lerp_(matrix, self.momentum)
        root = matrix_square_root(matrix + self.eps * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device))
        white = torch.linalg.solve(root, flat - mean[:, None])
        scaled = self.weight[:, None] * white + self.bias[:, None]
        whole: Tensor = scaled.reshape(len(scaled), len(features), *features.shape[2:]).transpose(0, 1)
        return whole


class GlobalCovariancePooling(nn.Module):
    """Global covariance pooling (Li et al., ICCV 2017): the square root of the channels' covariance over places.

    Args:
        channels: Of its input; the output has `channels (channels + 1) / 2` values.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        rows, columns = torch.triu_indices(channels, channels)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def matrices(self, features: Tensor) -> Tensor:
        """The covariance of each image over its places: `[batch, channels, channels]`."""
        return covariance(features.flatten(2))

    def forward(self, features: Tensor) -> Tensor:
        """`[batch, channels, height, width]` to `[batch, channels (channels + 1) / 2]`."""
        return matrix_square_root(self.matrices(features))[:, self.rows, self.columns]
