"""The patches of an image that are still missing, from what the attention made of those that are found.

What a head puts out for a found token depends on all tokens of its image. With N found and m missing patches these are
`N x width` equations for `m x pixels` unknowns: Gauss-Newton, from the mean of neighbouring patches, under a smooth prior
that fades. Ours.
"""

import torch
from torch import Tensor

from privbench.closed_form.embedding import PatchEmbedding
from privbench.closed_form.smoothness import smooth_precision
from privbench.token_search.attention import FirstAttention

__all__ = ["missing_patches"]

_STEPS = 14
_PRIOR = 1e-4
"""Weight of the smooth prior at the first step."""
_FADES = 0.1
"""What is left of that weight after each step."""
_TRIES = 6
"""Dampings tried before a step is given up."""


def missing_patches(
    attention: FirstAttention,
    embedding: PatchEmbedding,
    known: Tensor,
    outputs: Tensor,
    rows: Tensor,
    start: Tensor,
    *,
    weights: Tensor | None,
    stalled: float,
) -> tuple[Tensor, Tensor]:
    """Solves for all missing patches of one image together.

    Args:
        attention: The first attention, in float64.
        embedding: Patches to tokens.
        known: `[found, width]`, tokens of the image before the attention.
        outputs: `[found, width]`, what the heads put out for them.
        rows: `[missing, width]`, bias and position row of the missing patches.
        start: `[missing, pixels]`, normalised patches to start from.
        weights: `[found]`, how much the equations of each token count; None: all the same.
        stalled: Share of the squared error below which a step's gain ends it.

    Returns:
        `[missing, pixels]`, and the squared error of the equations there.
    """
    problem = _Problem(
        attention, embedding.weight, known, outputs, rows, torch.ones_like(known[:, 0]) if weights is None else weights
    )
    prior, current = smooth_precision(embedding.patch_size).to(start).contiguous(), start
    weight, damping = _PRIOR, 1e-3
    error, jacobian = problem.error(current), problem.jacobian(current)
    for step in range(_STEPS):
        moved = (current - start) @ prior
        normal = (jacobian.T @ jacobian).double()
        pull = weight * torch.kron(torch.eye(len(rows)).to(prior), prior)
        side = (jacobian.T @ error.float()).double() + weight * moved.flatten()
        cost = error.square().sum() + weight * (moved * (current - start)).sum()
        for _ in range(_TRIES):
            matrix = normal + pull
            matrix.diagonal().add_(damping * matrix.diagonal())
            there = current - torch.linalg.solve(matrix, side).view_as(current)
            error_there = problem.error(there)
            change = there - start
            if error_there.square().sum() + weight * (change @ prior * change).sum() < cost:
                break
            damping *= 5
        else:
            break
        gain = 1 - error_there.square().sum() / error.square().sum()
        current, error, damping, weight = there, error_there, max(damping / 8, 1e-12), weight * _FADES
        if step > 2 and gain < stalled:
            break
        jacobian = problem.jacobian(current)
    return current, error.square().sum()


class _Problem:
    def __init__(
        self, attention: FirstAttention, weight: Tensor, known: Tensor, outputs: Tensor, rows: Tensor, counts: Tensor
    ) -> None:
        self.attention, self.weight, self.rows, self.counts = attention, weight, rows, counts[:, None]
        with torch.no_grad():
            query, self.key, self.value = attention.parts(torch.cat([attention.prefix, known]))
        self.query = query[:, len(attention.prefix) :]
        self.scores = self.query @ self.key.mT
        self.target = outputs.reshape(len(outputs), attention.heads, -1).transpose(0, 1)

    def _mixed(self, patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs `[heads, found, head width]`, weights of the missing `[heads, found, missing]` and their values."""
        with torch.no_grad():
            _, key, value = self.attention.parts(patches @ self.weight.T + self.rows)
        weights = torch.cat([self.scores, self.query @ key.mT], dim=2).softmax(dim=2)
        return weights @ torch.cat([self.value, value], dim=1), weights[:, :, -len(patches) :], value

    def error(self, patches: Tensor) -> Tensor:
        """`[heads * found * head width]`."""
        error: Tensor = (self._mixed(patches)[0] - self.target) * self.counts
        return error.flatten()

    def jacobian(self, patches: Tensor) -> Tensor:
        """`[heads * found * head width, missing * pixels]` in float32, which is enough for a step's direction.

        A missing key and value move an output by `p (dv + (v - o) q·dk)`, p the weight that it has there.
        """
        with torch.no_grad():
            tokens = patches @ self.weight.T + self.rows
            keys, values = (part.float() for part in self.attention.changes(tokens, self.weight))
        mixed, weights, value = (part.float() for part in self._mixed(patches))
        nearer = torch.einsum("hfd,mhdx->hfmx", self.query.float(), keys) * weights[..., None]
        apart = value[:, None] - mixed[:, :, None]
        changes = torch.einsum("hfm,mhdx->hfdmx", weights, values)
        changes += apart.transpose(2, 3)[..., None] * nearer[:, :, None]
        return (changes * self.counts.float()[..., None, None]).flatten(0, 2).flatten(1)
