"""Masked Jigsaw Puzzle (Ren et al., CVPR 2023, arXiv 2205.12551).

A block-wise mask selects patches; the selected patches are permuted among themselves in pixel space and all of them use one
shared learnable "unknown" position row. A dense absolute localisation loss (DAL) keeps the remaining rows informative.
"""

import math
from typing import Annotated, ClassVar, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from privbench.closed_form import noise_deviation, rows_without_signal
from privbench.core import AttackerView, Defense, ModelInput, Observation, ProtectedInput, UserError
from privbench.core.patches import rearrange
from privbench.models import Victim

__all__ = ["DenseAbsoluteLocalisation", "MaskedJigsawPuzzle", "block_mask"]

_ATTEMPTS = 10
_LOG_ASPECT = math.log(0.3)


def block_mask(rows: int, columns: int, mask_ratio: float, generator: torch.Generator, *, area: tuple[int, int]) -> Tensor:
    """BEiT's block-wise mask as MJP uses it: rectangles until `int(mask_ratio * rows * columns)` patches are covered.

    Args:
        rows: Rows of the patch grid.
        columns: Columns of the patch grid.
        mask_ratio: Share of patches to cover, in [0, 1].
        generator: Source of the rectangles.
        area: Smallest and largest area of a rectangle in patches; 8 and 75 in the published code.

    Returns:
        `[rows * columns]` bool. Never more patches than the target, and fewer (none at all for small ratios) where ten
        tries in a row find no rectangle that fits, as in the published code.
    """
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    target = int(mask_ratio * rows * columns)
    while (covered := int(mask.sum())) < target:
        rest = min(target - covered, area[1])
        if not any(_add_rectangle(mask, area[0], rest, generator) for _ in range(_ATTEMPTS)):
            break
    return mask.flatten()


def _add_rectangle(mask: Tensor, smallest: int, rest: int, generator: torch.Generator) -> bool:
    """Tries one rectangle; keeps it if it covers something new, but not more than `rest` patches."""
    uniform = torch.rand(2, generator=generator, dtype=torch.float64)
    size = smallest + float(uniform[0]) * (rest - smallest)
    aspect = math.exp(_LOG_ASPECT - 2 * _LOG_ASPECT * float(uniform[1]))
    height, width = round(math.sqrt(size * aspect)), round(math.sqrt(size / aspect))
    if height >= mask.shape[0] or width >= mask.shape[1]:
        return False
    top = int(torch.randint(mask.shape[0] - height + 1, (), generator=generator))
    left = int(torch.randint(mask.shape[1] - width + 1, (), generator=generator))
    block = mask[top : top + height, left : left + width]
    if not 0 < int((~block).sum()) <= rest:
        return False
    block[:] = True
    return True


def can_mask(rows: int, columns: int, mask_ratio: float, *, area: tuple[int, int]) -> bool:
    """Whether `block_mask` can ever cover a patch: whether some rectangle that it can draw fits an empty grid.

    A rectangle of h x w patches is drawn where an area s and an aspect a of their ranges have sqrt(s a) round to h and
    sqrt(s / a) to w. For one s some a does where each lower bound of log a is below each upper one, which bounds log s.
    """
    target = int(mask_ratio * rows * columns)
    rest = min(target, area[1])
    if rest < 1:
        return False
    least, most = sorted((math.log(area[0]), math.log(rest)))
    for height in range(1, rows):
        for width in range(1, min(columns, rest // height + 1)):
            low, high = ([math.log(side + half) for side in (height, width)] for half in (-0.5, 0.5))
            lower = max(least, sum(low), 2 * max(low) + _LOG_ASPECT)
            upper = min(most, sum(high), 2 * min(high) - _LOG_ASPECT)
            if lower <= upper:
                return True
    return False


class DenseAbsoluteLocalisation(nn.Module):
    """DAL: the L1 distance between each patch's (row, column) and what a small network reads from its position row.

    Coordinates are scaled to [0, 1]; the mean runs over positions that are not masked. Weight: linear from 0 to `weight` over
    the first fifteenth of training (20 of 300 epochs), then a cosine down to half of it.

    Args:
        model: The victim whose rows are read.
        weight: Published 0.01.
        regressor: `linear`, or `nonlinear` (Linear-ReLU-Linear, the published choice).
    """

    def __init__(self, model: Victim, weight: float, regressor: Literal["linear", "nonlinear"]) -> None:
        super().__init__()
        width = model.patch_positions().shape[1]
        layers = [nn.Linear(width, width), nn.ReLU()] if regressor == "nonlinear" else []
        self.regressor = nn.Sequential(*layers, nn.Linear(width, 2))
        self.weight = weight
        rows, columns = cast(tuple[int, int], model.grid)
        grid = torch.cartesian_prod(torch.linspace(0, 1, rows), torch.linspace(0, 1, columns))
        self.register_buffer("coordinates", grid, persistent=False)

    def forward(self, model: Victim, batch: ModelInput, progress: float) -> Tensor:
        """The weighted loss of this batch, a scalar."""
        rows = model.patch_positions()
        coordinates = cast(Tensor, self.coordinates)
        if batch.unknown_positions is not None:
            rows, coordinates = rows[~batch.unknown_positions], coordinates[~batch.unknown_positions]
        distance = (self.regressor(rows) - coordinates).abs().mean()
        weighted: Tensor = self.scheduled_weight(progress) * distance
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

    mask_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of patches to mask; 0.1 is the published training ratio."""
    smallest_block: Annotated[int, Field(gt=0)] = 8
    """Smallest rectangle of the mask in patches."""
    largest_block: Annotated[int, Field(gt=0)] = 75
    """Largest rectangle of the mask in patches."""
    probability: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Training: share of batches that are masked and shuffled once the warm-up is over."""
    warm_up: Annotated[float, Field(ge=0, le=1)] = 1 / 15
    """Training: share of the epochs without masking (published: 20 of 300)."""
    dal_weight: Annotated[float, Field(ge=0)] = 0.01
    """Training: weight of dense absolute localisation."""
    dal_regressor: Literal["linear", "nonlinear"] = "nonlinear"
    """Training: the network that reads a position row."""

    @model_validator(mode="after")
    def _blocks_in_order(self) -> Self:
        if self.smallest_block > self.largest_block:
            raise ValueError(
                f"smallest_block={self.smallest_block} is larger than largest_block={self.largest_block}; "
                f"accepted: 1 to {self.largest_block}"
            )
        return self

    def trained_as(self) -> str:
        """A victim trained with masks, an unknown row, and DAL."""
        return self.name

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Adds the unknown position row.

        Raises:
            UserError: The model has no learned position embedding, or patches to which no mask can ever come.
        """
        victim = cast(Victim, model)
        victim.add_unknown_position()
        rows, columns = cast(tuple[int, int], victim.grid)
        area = (self.smallest_block, self.largest_block)
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
        area = (self.smallest_block, self.largest_block)
        mask = block_mask(rows, columns, self.mask_ratio, generator, area=area)
        chosen = mask.nonzero().flatten()
        order = torch.arange(rows * columns)
        order[chosen] = chosen[torch.randperm(len(chosen), generator=generator)]
        device = batch.images.device
        mask, order = mask.to(device), order.to(device)
        jigsaw = rearrange(batch.images, order, cast(int, victim.patch_size))
        return ProtectedInput(ModelInput(jigsaw, mask), {"mjp.mask": mask, "mjp.order": order})

    def training_batch(
        self, model: nn.Module, batch: ModelInput, generator: torch.Generator, progress: float
    ) -> ProtectedInput:
        """After the warm-up, a share of the batches is protected; the others are left as they are."""
        drawn = float(torch.rand((), generator=generator))
        if progress < self.warm_up or drawn >= self.probability:
            return ProtectedInput(batch)
        return self.prepare_batch(model, batch, generator)

    def extra_loss(self, model: nn.Module) -> nn.Module | None:
        """Dense absolute localisation, unless its weight is 0."""
        return DenseAbsoluteLocalisation(cast(Victim, model), self.dal_weight, self.dal_regressor) if self.dal_weight else None

    def attacker_view(self, model: nn.Module, observation: Observation) -> AttackerView:
        """Simulates the pass with as much of mask and order as the adversary has.

        Unaware: the plain pass with ordinary positions. Aware: the mask is read off the position table's gradient, whose
        masked rows are zero, or noise alone, and those patches get the unknown row; the order among them cannot show in the
        gradient, because patches that share one position row are interchangeable: they are movable, and their order is left to
        the attack (flag). Oracle: mask and order are applied.
        """
        victim = cast(Victim, model)
        size = cast(int, victim.patch_size)
        if observation.threat_model.adversary == "oracle":
            return AttackerView(
                lambda given, known: ModelInput(rearrange(given.images, known["mjp.order"], size), known["mjp.mask"]),
                {name: observation.disclosed[name] for name in ("mjp.mask", "mjp.order")},
            )
        if observation.threat_model.adversary == "aware":
            mask = masked_rows(victim, observation)
            return AttackerView(
                lambda given, known: ModelInput(given.images, known["mjp.mask"]),
                {"mjp.mask": mask},
                ("mask-inferred", "order-not-inferred") if mask.sum() > 1 else ("mask-inferred",),
                mask,
                inferred=("mjp.mask",),
                order="mjp.order",
            )
        return AttackerView()

    def claim(self) -> str:
        """Hides the places of masked patches."""
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
    return rows_without_signal(rows, noise_deviation(classifier, observation.batch_size))
