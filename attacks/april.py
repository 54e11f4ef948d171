"""APRIL (Lu et al., CVPR 2022, arXiv 2112.14087): the closed form for attention that reads the embedding directly.

Where one attention layer is all that reads the tokens, their gradient is `δ = Σ Wᵀ g` over queries, keys and values, so that
`Σ Wᵀ ∂W = Σ δ zᵀ`. With the gradients δ of the position rows the tokens z solve a linear system, and the patches another.
"""

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from privbench.adversary import simulate
from privbench.closed_form.embedding import PatchEmbedding, require_tokens
from privbench.closed_form.row_space import least_squares
from privbench.core import Attack, Observation, Progress, Reconstruction, UserError
from privbench.models import Victim

__all__ = ["April"]

_CUTOFF = 1e-7


class April(Attack):
    """Tokens, then patches, from position and attention gradients; only without LayerNorm and residual before the attention."""

    name: ClassVar[str] = "april"

    def require(self, observation: Observation) -> None:
        """Refuses models whose first attention does not read the embedding itself, or is not its only reader."""
        model = simulate(observation).model
        require_tokens(observation, model, self.name)
        reason = _obstacle(model, observation)
        if reason:
            raise UserError(
                f"attack april does not apply to {observation.model.name} with defense {observation.defense_text}: {reason}; "
                "choose --attack closed-form or gradvit"
            )

    def run(self, observation: Observation, *, generator: torch.Generator, progress: Progress) -> Reconstruction:
        """Solves for the tokens, then for the patches."""
        simulation = simulate(observation)
        model, embedding = simulation.model, PatchEmbedding.of(simulation.model)
        name = "network.blocks.0.attn.qkv.weight"
        weight, gradient = model.get_parameter(name).detach().double(), observation.gradients[name].double()
        gradients = observation.gradients[cast(str, model.parts().position)][0].double()
        tokens = least_squares(gradients.T, weight.T @ gradient, cutoff=_CUTOFF)
        known = embedding.bias + embedding.positions
        patches = least_squares(embedding.weight, (tokens[-len(known) :] - known).T, cutoff=_CUTOFF).T
        images, flags = simulation.undone(embedding.images(patches))
        return Reconstruction(images, flags=simulation.view.flags(simulation.view.inferred) + flags)


def _obstacle(model: Victim, observation: Observation) -> str | None:
    """Why the derivation does not hold for this model, found by running it; None where it holds."""
    network = cast(Any, model.network)
    block = network.blocks[0]
    if not isinstance(getattr(getattr(block, "attn", None), "qkv", None), nn.Linear):
        return "its first block has no joint query-key-value layer"
    if model.has_unknown_position or model.parts().prefix_tokens != network.num_prefix_tokens:
        return "it takes one position row for each token, and here tokens share a row or have none"
    tokens, read = _probe(model, torch.full((1, *observation.image_shape), 0.25, device=observation.device))
    if not torch.equal(tokens, read):
        return "a layer (LayerNorm in pre-norm transformers) lies between the embedding and the first attention"
    return (
        None
        if tokens.grad is None or not tokens.grad.any()
        else "a residual connection carries the embedding past the first attention"
    )


def _probe(model: Victim, images: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens, with their gradient on all ways but through the first attention, and what that attention reads."""
    block, kept = cast(Any, model.network).blocks[0], []

    def at_block(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        kept.append(given[0].detach().requires_grad_())
        return (kept[0], *given[1:])

    def at_attention(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        kept.append(given[0].detach().requires_grad_())
        return (kept[1], *given[1:])

    hooks = [block.register_forward_pre_hook(at_block), block.attn.register_forward_pre_hook(at_attention)]
    try:
        model(images).square().sum().backward(inputs=[kept[0]])
    finally:
        for hook in hooks:
            hook.remove()
    return kept[0], kept[1]
