"""Naive shuffle: the client permutes the patches of each image before the model sees them (Ren et al., CVPR 2023).

One permutation per batch, drawn anew for every batch, in pixel space; position embeddings stay as they are. It moves all
patches, a random share of them, or, as the MJP authors' baseline has it, those of a block-wise mask.
"""

import math
from typing import Annotated, ClassVar, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from privbench.core import AttackerView, ChoiceRole, Defense, ModelInput, Observation, ProtectedInput, UserError
from privbench.core.patches import rearrange
from privbench.defenses.block_mask import block_mask, can_mask, scaled_area
from privbench.models import Victim

__all__ = ["NaiveShuffle"]

_ORDER = "naive-shuffle.order"


class NaiveShuffle(Defense):
    """Permutes patches of the batch at random before the forward pass."""

    name: ClassVar[str] = "naive-shuffle"
    scored: ClassVar[tuple[tuple[str, ChoiceRole], ...]] = ((_ORDER, "order"),)

    ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the patches, drawn anew for every batch, that are permuted among themselves; None: all of them."""

    selection: Literal["blocks"] | None = None
    """`blocks`: the patches are those of MJP's block-wise mask of `ratio`; None: single patches, anywhere."""
    probability: Annotated[float, Field(ge=0, le=1)] | None = None
    """Training: share of batches that are shuffled once the warm-up is over; None: 0.5, as in the authors' training."""
    warm_up: Annotated[float, Field(ge=0, le=1)] | None = None
    """Training: share of the epochs without shuffling; None: 1/15, as in the authors' training."""

    @model_validator(mode="after")
    def _blocks_need_a_ratio(self) -> Self:
        if self.selection and self.ratio is None:
            raise ValueError("selection=blocks needs a ratio; accepted: ratio=0.1, which the authors train with, up to 1")
        return self

    def trained_as(self) -> str:
        """A victim that saw shuffled patches during training."""
        return self.name

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Checks that there are patches to shuffle."""
        _patch_size(model)
        victim = cast(Victim, model)
        patches = victim.patch_count
        if self._moved(patches) < 2:
            raise UserError(
                f"defense naive-shuffle moves fewer than two of {patches} patches at ratio={self.ratio:g}; "
                f"accepted: {math.ceil(20_000 / patches) / 10_000:g} to 1"
            )
        rows, columns = cast(tuple[int, int], victim.grid)
        if self.selection and not can_mask(
            rows, columns, cast(float, self.ratio), area=scaled_area(rows, columns, cast(float, self.ratio), None, None)
        ):
            raise UserError(
                f"defense naive-shuffle finds no block of the {rows}x{columns} grid at ratio={self.ratio:g}; raise ratio"
            )
        return model

    def _moved(self, patches: int) -> int:
        # The tolerance keeps a product such as 0.29 * 100 from losing a patch to rounding.
        return patches if self.ratio is None else int(self.ratio * patches + 1e-6)

    def _chosen(self, victim: Victim, generator: torch.Generator) -> Tensor:
        """Which patches are permuted among themselves."""
        rows, columns = cast(tuple[int, int], victim.grid)
        if self.selection:
            area = scaled_area(rows, columns, cast(float, self.ratio), None, None)
            return block_mask(rows, columns, cast(float, self.ratio), generator, area=area).nonzero().flatten()
        moved = self._moved(victim.patch_count)
        if moved == victim.patch_count:
            return torch.arange(moved)
        return torch.randperm(victim.patch_count, generator=generator)[:moved]

    def prepare_batch(self, model: nn.Module, batch: ModelInput, generator: torch.Generator) -> ProtectedInput:
        """Draws the patches and their permutation and applies it."""
        victim = cast(Victim, model)
        order, chosen = torch.arange(victim.patch_count), self._chosen(victim, generator)
        permuted = chosen[torch.randperm(len(chosen), generator=generator)]
        order = order.index_put((chosen,), permuted).to(batch.images.device)
        shuffled = rearrange(batch.images, order, _patch_size(model))
        return ProtectedInput(ModelInput(shuffled, batch.unknown_positions), {"naive-shuffle.order": order})

    def training_batch(
        self, model: nn.Module, batch: ModelInput, generator: torch.Generator, progress: float
    ) -> ProtectedInput:
        """After the warm-up, a share of the batches is shuffled; the others are left as they are."""
        drawn = float(torch.rand((), generator=generator))
        warm_up = 1 / 15 if self.warm_up is None else self.warm_up
        if progress < warm_up or drawn >= (0.5 if self.probability is None else self.probability):
            return ProtectedInput(batch)
        return self.prepare_batch(model, batch, generator)

    def aware(self, model: nn.Module, observation: Observation) -> AttackerView:
        """The plain pass, because the shuffled image is what the gradient describes.

        All patches are movable, also where a share of them was moved, because nothing tells which; their order is left to the
        attack.
        """
        everywhere = torch.ones(cast(Victim, model).patch_count, dtype=torch.bool, device=observation.device)
        return AttackerView(movable=everywhere)

    def oracle(self, model: nn.Module, observation: Observation) -> AttackerView:
        """The true order is applied to the candidate, so the candidate is the image itself."""
        size = _patch_size(model)
        return AttackerView(
            lambda given, known: ModelInput(rearrange(given.images, known[_ORDER], size), given.unknown_positions),
            {_ORDER: observation.disclosed[_ORDER]},
            undo=lambda fed, known: rearrange(fed, known[_ORDER].argsort(), size),
        )

    def guarantee(self) -> str:
        """Hides places, not contents."""
        which = "each patch" if self.ratio is None else f"{100 * self.ratio:.4g} % of the patches"
        return f"Hides where {which} was from an attacker who does not know the order; the contents are not protected."


def _patch_size(model: nn.Module) -> int:
    size = cast(Victim, model).patch_size
    if size is None:
        raise UserError("defense naive-shuffle needs a vision transformer with patches; choose a timm vit_* or deit_* model")
    return size
