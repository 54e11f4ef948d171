"""Known sums of patches: what an adapter (LoRA) of a rank below the number of tokens tells of them.

The rows of ∂A are combinations `Σ a_p u_p` of the first block's normalised tokens, fewer than there are tokens, with unknown
weights. Times its deviation a token is `γ∘C(W x + b + PE) + σ β`, linear in `(x, σ)`; what of that is known differs between
places by the position rows. So among directions that no row of ∂A and no `(x, σ)` has a part in, the known parts obey one
linear dependency for each row: those are the weights. With them each row is a known sum of all patches. Ours; the class token,
which is no secret, is one of the tokens, so that a rank of one less than their number determines everything.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from privbench.closed_form.embedding import PatchEmbedding
from privbench.closed_form.first_block import FirstBlock, centred
from privbench.closed_form.map_estimate import patches_of_sums
from privbench.core import Observation

__all__ = ["Combinations"]

_LEAST = 1e-9
"""Error of a combination below which it counts as exact, relative to a token."""


@dataclass(frozen=True)
class Combinations:
    """Sums of patches with known weights.

    Attributes:
        weights: `[combinations, patches]`.
        sums: `[combinations, pixels]`, of normalised patches with these weights.
        errors: `[combinations]`, how far each misses the equations that it must obey, best last.
        noise: `[pixels, pixels]`, covariance of the error of a sum, in units of its square.
    """

    weights: Tensor
    sums: Tensor
    errors: Tensor
    noise: Tensor

    @classmethod
    def of(cls, embedding: PatchEmbedding, block: FirstBlock, rows: Tensor) -> "Combinations":
        """Reads them off the gradient of an adapter's A, `[rank, width]`."""
        tokens = embedding.token_count
        count = min(len(rows), tokens)
        outside = torch.linalg.svd(rows.double())[2][count:]
        moves = torch.cat([block.centred(embedding.weight.T), block.shift[None]]) @ outside.T
        constant = torch.cat([_normalised(embedding.prefix, block), block.centred(embedding.bias + embedding.positions)])
        constant = constant @ outside.T
        beyond = torch.linalg.svd(moves.T)[0][:, len(moves) :]
        weights, errors, _ = torch.linalg.svd(constant @ beyond)
        errors = torch.nn.functional.pad(errors, (0, max(0, tokens - len(errors))))[:tokens]
        weights, errors = weights[:, tokens - count :].T, errors[tokens - count :].clamp(min=_LEAST)
        sums = torch.linalg.lstsq(moves.T, -(weights @ constant).T).solution.T
        noise = torch.linalg.inv(moves @ moves.T) / beyond.shape[1]
        return cls(weights[:, len(embedding.prefix) :], sums[:, :-1], errors, noise[:-1, :-1])

    def patches(self, patch_size: int, *, whole: bool) -> Tensor:
        """The most likely patches with these sums, each trusted by its error.

        Args:
            patch_size: Side of a patch in pixels.
            whole: Whether they stand in the order of the image's grid.

        Returns:
            `[patches, pixels]`, normalised.
        """
        trusted = 1 / self.errors[:, None]
        return patches_of_sums(trusted * self.weights, trusted * self.sums, self.noise, patch_size, whole=whole)

    @staticmethod
    def missing(observation: Observation, embedding: PatchEmbedding, block: FirstBlock) -> str:
        """What they lack in this update, as the end of "needs ..."; empty where they can be read."""
        if block.adapter is None:
            return "adapters (LoRA) beside the first query-key-value layer"
        tokens, (width, pixels) = embedding.token_count, embedding.weight.shape
        if width < tokens + pixels + 1:
            return f"a width of {tokens + pixels + 1} for {tokens} tokens and {pixels} pixels of a patch, given {width}"
        if embedding.unknown is not None:
            return "a position row for each patch"
        if block.down_name not in observation.gradients or not observation.gradients[block.down_name].any():
            rank = tokens + pixels + 1
            return f"a gradient of lora_A, which is zero as long as lora_B is, or of lora_B at rank {rank} or above"
        return ""


def _normalised(tokens: Tensor, block: FirstBlock) -> Tensor:
    """Tokens `[tokens, width]` after the LayerNorm."""
    deviations = (centred(tokens).square().mean(dim=1, keepdim=True) + block.epsilon).sqrt()
    return block.centred(tokens) / deviations + block.shift
