"""Naive shuffle: the client permutes the patches of each image before the model sees them (Ren et al., CVPR 2023).

One permutation per batch, drawn anew for every batch, over all patches or a random share of them, in pixel space; position
embeddings stay as they are.
"""

import math
from typing import Annotated, ClassVar, cast

import torch
from pydantic import Field
from torch import nn

from privbench.core import AttackerView, Defense, ModelInput, Observation, ProtectedInput, UserError
from privbench.core.patches import rearrange
from privbench.models import Victim

__all__ = ["NaiveShuffle"]


class NaiveShuffle(Defense):
    """Permutes patches of the batch at random before the forward pass."""

    name: ClassVar[str] = "naive-shuffle"

    ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the patches, drawn anew for every batch, that are permuted among themselves; None: all of them."""

    def trained_as(self) -> str:
        """A victim that saw shuffled patches during training."""
        return self.name

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Checks that there are patches to shuffle."""
        _patch_size(model)
        patches = cast(Victim, model).patch_count
        if self._moved(patches) < 2:
            raise UserError(
                f"defense naive-shuffle moves fewer than two of {patches} patches at ratio={self.ratio:g}; "
                f"accepted: {math.ceil(20_000 / patches) / 10_000:g} to 1"
            )
        return model

    def _moved(self, patches: int) -> int:
        # The tolerance keeps a product such as 0.29 * 100 from losing a patch to rounding.
        return patches if self.ratio is None else int(self.ratio * patches + 1e-6)

    def prepare_batch(self, model: nn.Module, batch: ModelInput, generator: torch.Generator) -> ProtectedInput:
        """Draws the patches and their permutation and applies it."""
        patches = cast(Victim, model).patch_count
        moved, order = self._moved(patches), torch.arange(patches)
        chosen = order if moved == patches else torch.randperm(patches, generator=generator)[:moved]
        order = order.index_put((chosen,), chosen[torch.randperm(moved, generator=generator)]).to(batch.images.device)
        shuffled = rearrange(batch.images, order, _patch_size(model))
        return ProtectedInput(ModelInput(shuffled, batch.unknown_positions), {"naive-shuffle.order": order})

    def attacker_view(self, model: nn.Module, observation: Observation) -> AttackerView:
        """Simulates the pass with as much of the order as the adversary has.

        Unaware: the plain pass. Aware: the same, because the shuffled image is what the gradient describes; all patches are
        movable, also where a share of them was moved, because nothing tells which, and the order is left to the attack (flag).
        Oracle: the true order is applied to the candidate, so the candidate is the image itself.
        """
        if observation.threat_model.adversary == "oracle":
            name, size = "naive-shuffle.order", _patch_size(model)
            return AttackerView(
                lambda given, known: ModelInput(rearrange(given.images, known[name], size), given.unknown_positions),
                {name: observation.disclosed[name]},
            )
        if observation.threat_model.adversary == "aware":
            everywhere = torch.ones(cast(Victim, model).patch_count, dtype=torch.bool, device=observation.device)
            return AttackerView(flags=("order-not-inferred",), movable=everywhere, order="naive-shuffle.order")
        return AttackerView()

    def claim(self) -> str:
        """Hides places, not contents."""
        which = "each patch" if self.ratio is None else f"{100 * self.ratio:.4g} % of the patches"
        return f"Hides where {which} was from an attacker who does not know the order; the contents are not protected."


def _patch_size(model: nn.Module) -> int:
    size = cast(Victim, model).patch_size
    if size is None:
        raise UserError("defense naive-shuffle needs a vision transformer with patches; choose a timm vit_* or deit_* model")
    return size
