"""Masked Jigsaw Puzzle (Ren et al., CVPR 2023, arXiv 2205.12551).

A block-wise mask selects patches; the selected patches are permuted among themselves in pixel space and all of them use one
shared learnable "unknown" position row. A dense absolute localisation loss (DAL) keeps the remaining rows informative.
"""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from privbench.closed_form import noise_std, rows_without_signal
from privbench.core import (
    AttackerView,
    ChoiceRole,
    Defense,
    InferredChoices,
    ModelInput,
    Observation,
    ProtectedInput,
    UserError,
)
from privbench.core.patches import rearrange
from privbench.defenses.block_mask import block_mask, can_mask, scaled_area
from privbench.models import Victim

__all__ = ["DenseAbsoluteLocalisation", "MaskedJigsawPuzzle", "masked_rows"]


class DenseAbsoluteLocalisation(nn.Module):
    """DAL: the L1 distance between each patch's (row, column) and what a small network reads from its position row.

    The mean runs over positions that are not masked. Weight: linear from 0 to `weight` over the first fifteenth of training (20
    of 300 epochs), then a cosine down to half of it.

    Args:
        model: The victim whose rows are read.
        weight: Published 0.01.
        regressor: `linear`, or `nonlinear` (Linear-ReLU-Linear, the published choice).
        coordinates: `raw`, from 0 to rows - 1 and columns - 1 (the published call), or `normalised` to [0, 1].
    """

    def __init__(
        self,
        model: Victim,
        weight: float,
        regressor: Literal["linear", "nonlinear"],
        coordinates: Literal["raw", "normalised"] = "raw",
    ) -> None:
        super().__init__()
        width = model.patch_positions().shape[1]
        layers = [nn.Linear(width, width), nn.ReLU()] if regressor == "nonlinear" else []
        self.regressor = nn.Sequential(*layers, nn.Linear(width, 2))
        self.weight = weight
        rows, columns = cast(tuple[int, int], model.grid)
        last = (rows - 1, columns - 1) if coordinates == "raw" else (1, 1)
        grid = torch.cartesian_prod(torch.linspace(0, last[0], rows), torch.linspace(0, last[1], columns))
        self.register_buffer("coordinates", grid, persistent=False)

    def forward(self, model: Victim, batch: ModelInput, progress: float) -> Tensor:
        """The weighted loss of this batch, a scalar; 0 where every position is masked."""
        distance = (self.regressor(model.patch_positions()) - cast(Tensor, self.coordinates)).abs().mean(1)
        if batch.unknown_positions is not None:
            # Sums, because choosing the rows would wait for a GPU.
            known = (~batch.unknown_positions).to(distance)
            distance = (distance * known).sum() / known.sum().clamp(min=1)
        weighted: Tensor = self.scheduled_weight(progress) * distance.mean()
        return weighted

    def scheduled_weight(self, progress: float) -> float:
        """The weight at `progress` in [0, 1] of training."""
        warm_up = 1 / 15
        if progress < warm_up:
            return self.weight * progress / warm_up
        cosine = math.cos(math.pi * (progress - warm_up) / (1 - warm_up))
        return self.weight * (0.75 + 0.25 * cosine)


class MaskedJigsawPuzzle(Defense):
    """Permutes a block-wise masked part of the patches and hides their positions behind one unknown row."""

    name: ClassVar[str] = "mjp"
    scored: ClassVar[tuple[tuple[str, ChoiceRole], ...]] = (("mjp.mask", "mask"), ("mjp.order", "order"))

    mask_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of patches to mask. The authors train at 0.1 and attack at 0.9."""
    smallest_block: Annotated[int, Field(gt=0)] | None = None
    """Smallest rectangle of the mask in patches; None: 8 of 196 (published), scaled to the grid and to the ratio."""
    largest_block: Annotated[int, Field(gt=0)] | None = None
    """Largest rectangle of the mask in patches; None: 75 of 196 (published), scaled to the grid."""
    probability: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Training: share of batches that are masked and shuffled once the warm-up is over."""
    warm_up: Annotated[float, Field(ge=0, le=1)] = 1 / 15
    """Training: share of the epochs without masking (published: 20 of 300)."""
    dal_weight: Annotated[float, Field(ge=0)] = 0.01
    """Training: weight of dense absolute localisation."""
    dal_regressor: Literal["linear", "nonlinear"] = "nonlinear"
    """Training: the network that reads a position row."""
    dal_coordinates: Literal["normalised"] | None = None
    """Training: `normalised` scales the grid's coordinates to [0, 1]; None: as they are, 0 to rows - 1 (published)."""
    position_table: Literal["timm"] | None = None
    """Training: `timm` starts from timm's table, without weight decay; None: from N(0, 1), decayed (published)."""

    positions: Literal["own", "indexed"] | None = None
    """Ablations of the paper: `own`, masked patches keep the rows of their places (jigsaw without unknown row); `indexed`, the
    unknown row, and a second learned table of places that no mask touches; None: the unknown row alone (published)."""

    @model_validator(mode="after")
    def _blocks_in_order(self) -> Self:
        if self.smallest_block and self.largest_block and self.smallest_block > self.largest_block:
            raise ValueError(
                f"smallest_block={self.smallest_block} is larger than largest_block={self.largest_block}; "
                f"accepted: 1 to {self.largest_block}"
            )
        return self

    def trained_as(self) -> str:
        """A victim trained with masks, an unknown row, and DAL; without an unknown row, an undefended one."""
        return "none" if self.positions == "own" else self.name

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Adds the unknown position row, or what an ablation has in its place.

        Raises:
            UserError: The model has no learned position embedding, or patches to which no mask can ever come.
        """
        victim = cast(Victim, model)
        if self.positions != "own":
            victim.add_unknown_position()
        if self.positions == "indexed":
            victim.add_index_embedding()
        rows, columns = cast(tuple[int, int], victim.grid)
        area = scaled_area(rows, columns, self.mask_ratio, self.smallest_block, self.largest_block)
        if self.mask_ratio and not can_mask(rows, columns, self.mask_ratio, area=area):
            raise UserError(
                f"defense mjp never masks a patch of the {rows}x{columns} grid with mask_ratio={self.mask_ratio:g} "
                f"({int(self.mask_ratio * rows * columns)} patches) and blocks from {area[0]} to {area[1]}; "
                "raise mask_ratio, lower smallest_block, or write mask_ratio=0"
            )
        return model

    def prepare_batch(self, model: nn.Module, batch: ModelInput, generator: torch.Generator) -> ProtectedInput:
        """Draws one mask and one permutation for the whole batch."""
        victim = cast(Victim, model)
        rows, columns = cast(tuple[int, int], victim.grid)
        area = scaled_area(rows, columns, self.mask_ratio, self.smallest_block, self.largest_block)
        mask = block_mask(rows, columns, self.mask_ratio, generator, area=area)
        chosen = mask.nonzero().flatten()
        order = torch.arange(rows * columns)
        order[chosen] = chosen[torch.randperm(len(chosen), generator=generator)]
        device = batch.images.device
        mask, order = mask.to(device), order.to(device)
        jigsaw = rearrange(batch.images, order, cast(int, victim.patch_size))
        fed = batch.unknown_positions if self.positions == "own" else mask
        return ProtectedInput(ModelInput(jigsaw, fed), {"mjp.mask": mask, "mjp.order": order})

    def training_batch(
        self, model: nn.Module, batch: ModelInput, generator: torch.Generator, progress: float
    ) -> ProtectedInput:
        """After the warm-up, a share of the batches is protected; the others are left as they are."""
        drawn = float(torch.rand((), generator=generator))
        if progress < self.warm_up or drawn >= self.probability:
            return ProtectedInput(batch)
        return self.prepare_batch(model, batch, generator)

    def initialise_training(self, model: nn.Module) -> None:
        """Draws the position table from N(0, 1), as `nn.Embedding` does in the published code."""
        if self.position_table is None:
            victim = cast(Victim, model)
            nn.init.normal_(victim.get_parameter(cast(str, victim.parts().position)))

    def decayed_weights(self) -> tuple[str, ...]:
        """The position table, as published."""
        return ("network.pos_embed",) if self.position_table is None else ()

    def extra_loss(self, model: nn.Module) -> nn.Module | None:
        """Dense absolute localisation, unless its weight is 0."""
        if not self.dal_weight:
            return None
        coordinates = self.dal_coordinates or "raw"
        return DenseAbsoluteLocalisation(cast(Victim, model), self.dal_weight, self.dal_regressor, coordinates)

    def aware(self, model: nn.Module, observation: Observation) -> AttackerView:
        """The mask is read off the position table's gradient, whose masked rows are zero, or noise alone.

        Those patches get the unknown row. The order among them cannot show in the gradient, because patches that share one
        position row are interchangeable: they are movable, and their order is left to the attack. Without an unknown row
        nothing tells which patches were moved, and all of them are movable.
        """
        if self.positions == "own":
            count = cast(Victim, model).patch_count
            return AttackerView(movable=torch.ones(count, dtype=torch.bool, device=observation.device))
        mask = masked_rows(cast(Victim, model), observation)
        return AttackerView(
            lambda given, known: ModelInput(given.images, known["mjp.mask"]),
            {"mjp.mask": mask},
            ("mask-inferred",),
            movable=mask,
            inferred=InferredChoices(mask=mask),
            undo=lambda fed, _: fed,
        )

    def oracle(self, model: nn.Module, observation: Observation) -> AttackerView:
        """Mask and order are applied."""
        size, own = cast(int, cast(Victim, model).patch_size), self.positions == "own"

        def transform(given: ModelInput, known: Mapping[str, Tensor]) -> ModelInput:
            unknown = given.unknown_positions if own else known["mjp.mask"]
            return ModelInput(rearrange(given.images, known["mjp.order"], size), unknown)

        return AttackerView(
            transform,
            {name: observation.disclosed[name] for name in ("mjp.mask", "mjp.order")},
            undo=lambda fed, known: rearrange(fed, known["mjp.order"].argsort(), size),
        )

    def guarantee(self) -> str:
        """Hides the places of masked patches; the two ablations do not."""
        if self.positions is not None:
            kept = "their own position rows" if self.positions == "own" else "an index embedding of their places"
            return f"An ablation: masked patches are shuffled, and keep {kept}. It makes no promise."
        return (
            "Hides the places of the masked patches behind one shared position row; claimed to make gradient inversion "
            "markedly harder for an attacker who runs the undefended forward pass."
        )


def masked_rows(victim: Victim, observation: Observation) -> Tensor:
    """The mask as an attacker reads it: a masked position's own row takes no part in the forward pass, so its gradient is zero.

    Where noise was added to the whole update, a row counts as zero that is no longer than noise of the size which the
    classifier's gradient shows (batches smaller than the number of classes; otherwise exact zeros alone count).

    Returns:
        `[patches]` bool. Exact for a plain gradient, and with noise as long as it is smaller than the unmasked rows.
    """
    parts = victim.parts()
    table = observation.gradients[cast(str, parts.position)][0]
    rows = table[parts.prefix_tokens : parts.prefix_tokens + victim.patch_count]
    zero = (rows == 0).all(dim=1)
    if zero.any():
        return zero
    classifier = observation.gradients[victim.classifier_names()[0]]
    return rows_without_signal(rows, noise_std(classifier, observation.batch_size))
