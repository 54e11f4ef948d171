"""Pixel shuffle: the client permutes the pixels inside each patch before the model sees them, in all channels alike.

One secret permutation for all patches of a batch, or one for each patch, drawn anew for every batch. After `naive-shuffle` the
patches lie in a secret order too (`naive-shuffle+pixel-shuffle`), as in block scrambling (Chuman & Kiya, arXiv 2202.00806).
"""

from dataclasses import replace
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from privbench.core import (
    AttackerView,
    ChoiceRole,
    Defense,
    ModelInput,
    Observation,
    ProtectedInput,
    ScrambledPixels,
    UserError,
)
from privbench.core.patches import from_patches, to_patches
from privbench.models import Victim

__all__ = ["PixelShuffle"]

_CHOICE = "pixel-shuffle.pixels"


class PixelShuffle(Defense):
    """Permutes the pixels inside each patch at random before the forward pass."""

    name: ClassVar[str] = "pixel-shuffle"
    scored: ClassVar[tuple[tuple[str, ChoiceRole], ...]] = ((_CHOICE, "pixel-order"),)

    per: Literal["batch", "patch"] = "batch"
    """One permutation for all patches of a batch (`batch`), or one for each place of the patch grid (`patch`)."""

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Checks that there are patches of several pixels."""
        _patch_size(model)
        return model

    def prepare_batch(self, model: nn.Module, batch: ModelInput, generator: torch.Generator) -> ProtectedInput:
        """Draws the permutations and applies them; the choice is `[patches, pixels]`, the pixel that each place takes."""
        size, patches = _patch_size(model), cast(Victim, model).patch_count
        drawn = torch.rand(patches if self.per == "patch" else 1, size**2, generator=generator).argsort(dim=1)
        pixels = drawn.expand(patches, -1).contiguous().to(batch.images.device)
        return ProtectedInput(_shuffled(batch, pixels, size), {_CHOICE: pixels})

    def aware(self, model: nn.Module, observation: Observation) -> AttackerView:
        """The plain pass, because the shuffled image is what the gradient describes.

        That its pixels are permuted is known, and how is left to the attack.
        """
        return AttackerView(scrambled=ScrambledPixels(self.per))

    def oracle(self, model: nn.Module, observation: Observation) -> AttackerView:
        """The true permutation is applied to the candidate."""
        size = _patch_size(model)
        return AttackerView(
            lambda given, known: _shuffled(given, known[_CHOICE], size),
            {_CHOICE: observation.disclosed[_CHOICE]},
            undo=lambda fed, known: _shuffled(ModelInput(fed), known[_CHOICE].argsort(dim=1), size).images,
        )

    def guarantee(self) -> str:
        """Hides places inside patches, not contents."""
        return (
            "Hides where in its patch each pixel was from an attacker who does not know the permutation; the colours of every "
            "patch are not protected."
        )


def _shuffled(batch: ModelInput, pixels: Tensor, size: int) -> ModelInput:
    patches = to_patches(batch.images, size).flatten(3)
    moved = patches.gather(3, pixels[None, :, None].expand_as(patches)).reshape(*patches.shape[:3], size, size)
    return replace(batch, images=from_patches(moved, *batch.images.shape[-2:]))


def _patch_size(model: nn.Module) -> int:
    size = cast(Victim, model).patch_size
    if size is None:
        raise UserError("defense pixel-shuffle needs a vision transformer with patches; choose a timm vit_* or deit_* model")
    if size == 1:
        raise UserError("defense pixel-shuffle needs patches of several pixels, given 1x1; choose a model with larger patches")
    return size
