"""Subspace attack: the row space of the first block's query-key-value gradient against the known patch and position embedding.

The rows of that gradient span the normalised tokens, masked, shuffled or not. Each position asks of its patch to lie in that
space: a linear system per position, without position gradient, label or iteration. What masked patches (MJP) leave open, the
gradients of the position rows decide (`token_gradients`). Ours; derivation and limits in attacks/README.md.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privbench.adversary import Simulation, inferred_choices, simulate
from privbench.core import Attack, Observation, Progress, Reconstruction, UserError
from privbench.core.patches import from_patches, to_patches
from privbench.inversion import reassembled
from privbench.inversion.algebra import (
    FirstBlock,
    Moments,
    PatchEmbedding,
    Tokens,
    candidate_images,
    class_token,
    require_tokens,
    smooth_precision,
    token_gradients,
)
from privbench.models import Victim

__all__ = ["Subspace"]

_COMMON = "masked-patches-not-separated"
_PARTLY = "masked-patches-partly-separated"
_SEPARATED = "masked-order-not-inferred"
_INFERRED = {"order-not-inferred": "order-inferred", _SEPARATED: "masked-order-inferred"}
"""What becomes of a flag when the patches have been put in order."""
_PLAUSIBLE = 0.1
"""A recovered masked patch may leave [0, 1] by this much before the common patch takes its place."""


class Subspace(Attack):
    """Patches from the row space of the first block's gradient, masks from what does not fit."""

    name: ClassVar[str] = "subspace"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"standard": {}, "row-space-only": {"position_gradients": False}}

    position_gradients: bool = True
    """Whether the gradients of the position rows decide what patches that share a row (MJP) leave open; otherwise a smoothness
    prior alone decides it."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1.5e-2
    """Relative residual above which a position does not fit its own row and counts as masked."""

    def require(self, observation: Observation) -> None:
        """Refuses batches, models without position rows, and those whose equations are fewer than a patch's unknowns."""
        model = simulate(observation).model
        require_tokens(observation, model, self.name)
        FirstBlock.of(model)
        width, pixels = PatchEmbedding.of(model).weight.shape
        equations = width - model.patch_count - 1
        if equations < pixels + 1:
            raise UserError(
                f"attack subspace needs as many equations as a patch has unknowns, given {equations} (width {width} less "
                f"{width - equations} tokens) for {pixels + 1} in {observation.model.name}; choose --attack closed-form"
            )

    def run(self, observation: Observation, *, generator: torch.Generator, progress: Progress) -> Reconstruction:
        """Solves each position, finds the mask, then resolves what the mask left open and the order in which patches stand.

        Masked patches come in no order; an adversary that is not `unaware` of the shuffle puts them, and all others that the
        client may have moved, in the order in which their borders fit.
        """
        simulation = simulate(observation)
        model, embedding, block = simulation.model, PatchEmbedding.of(simulation.model), FirstBlock.of(simulation.model)
        tokens = Tokens(embedding, block, observation.gradients[block.qkv_name], self.tolerance)
        precision = smooth_precision(embedding.patch_size).to(observation.device)
        masked, flags = tokens.masked, list(simulation.view.flags)
        if self.position_gradients and tokens.ambiguity.shape[1]:
            gradients = token_gradients(model, observation)
            patches = tokens.with_token_gradients(gradients, observation.gradients[block.output_name], precision)
        else:
            patches = tokens.likely(tokens.patches, precision)
        if masked.any() and embedding.unknown is None:
            flags.append("row-space-does-not-fit")
        elif masked.any():
            patches[masked], told = self._masked(observation, model, tokens, patches[~masked], masked, precision)
            flags.append(told)
        images, undone = candidate_images(model, simulation.logits, embedding.images(patches))
        movable = _movable(simulation, masked, embedding, adversary=observation.threat_model.adversary, flags=flags)
        fitting = tokens.residuals[~masked] if not masked.all() else tokens.residuals
        losses = {
            "residual": float(fitting.max()),
            "masked": float(masked.sum()),
            "rank": float(tokens.space.rank),
            "gap": tokens.space.gap,
            "ambiguity": float(tokens.ambiguity.shape[1]),
        }
        order = None
        if movable.any():
            images, found = reassembled(images, embedding.patch_size, movable, generator=generator)
            losses["order_cost"], order = found.cost, found.undone
            flags = [_INFERRED.get(flag, flag) for flag in flags]
        inferred = inferred_choices(simulation.view, observation, order)
        inferred |= {name: masked for name in inferred if name.endswith(".mask")}
        return Reconstruction(images, losses=losses, flags=(*flags, *undone), inferred=inferred)

    def _masked(
        self,
        observation: Observation,
        model: Victim,
        tokens: Tokens,
        patches: Tensor,
        masked: Tensor,
        precision: Tensor,
    ) -> tuple[Tensor, str]:
        """Patches of the masked positions, one after another or one for all, and the flag that says which."""
        common = tokens.shared_row_patch(precision)
        moments = Moments.of(model, observation, tokens.space.rank) if self.position_gradients else None
        if moments is None:
            return common, _COMMON
        embedding = PatchEmbedding.of(model)
        known = patches @ embedding.weight.T + embedding.bias + embedding.positions[~masked]
        found = tokens.shared_row_patches(moments, torch.cat([class_token(model), known]), common)
        if found is None or len(found) != int(masked.sum()):
            return common, _COMMON
        plausible = embedding.excess(found) < _PLAUSIBLE
        return torch.where(plausible[:, None], found, common), _SEPARATED if plausible.all() else _PARTLY


def _movable(simulation: Simulation, masked: Tensor, embedding: PatchEmbedding, *, adversary: str, flags: list[str]) -> Tensor:
    """`[patches]` bool: which places of the candidate hold patches in an order that is still to be found."""
    movable = simulation.view.movable
    movable = torch.zeros_like(masked) if movable is None else movable.clone()
    if adversary == "unaware" or _COMMON in flags:
        # One patch stands for all masked ones: there is nothing to order, and it fits no border.
        return movable & ~masked
    if _SEPARATED in flags or _PARTLY in flags:
        # The oracle knows where the client put each masked patch, but not which of the recovered ones it is.
        shown = masked[:, None].expand(-1, embedding.weight.shape[1]).to(embedding.weight)
        places = from_patches(shown.reshape(1, -1, 3, embedding.patch_size, embedding.patch_size), *[embedding.image_size] * 2)
        moved, _ = candidate_images(simulation.model, simulation.logits, places.float())
        movable |= to_patches(moved, embedding.patch_size)[0, :, 0, 0, 0] > 0
    return movable
