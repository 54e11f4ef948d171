"""Relocation: moving patches to the places that the position-embedding gradient assigns to them.

Gradient matching from noise ends in permutations: the right patches in the wrong places, a local minimum that no small step
leaves. The gradient of a position row is the gradient of the token in that place, so an assignment between the observed rows
and the candidate's rows says where each recovered patch belongs. It uses nothing but the observation and is not in the papers.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy
import torch
from torch import Tensor

from privbench.core.patches import rearrange
from privbench.models import Victim

__all__ = ["Rearrange", "Relocation", "position_relocation", "relocation_order"]


class Rearrange(Protocol):
    """Moves patches of images `[batch, 3, height, width]`: position `j` takes the patch at `order[j]`."""

    def __call__(self, images: Tensor, order: Tensor) -> Tensor:
        """The moved images."""


@dataclass(frozen=True)
class Relocation:
    """When and how patches are moved to the places that the position gradient gives them.

    Attributes:
        steps: Before which steps to move.
        table: Name of the position table `[1, rows, width]`.
        first_row: The table's row of the first patch.
        patches: Number of patches.
        rearrange: Moves the patches.
    """

    steps: frozenset[int]
    table: str
    first_row: int
    patches: int
    rearrange: Rearrange

    def rows(self, table: Tensor) -> Tensor:
        """The patches' rows `[patches, width]` of a gradient of the table."""
        return table.reshape(-1, table.shape[-1])[self.first_row : self.first_row + self.patches]


def position_relocation(model: Victim, *, every: int, until: int) -> Relocation:
    """Moves of a model's patches by its position table.

    Args:
        model: A vision transformer with a learned position table.
        every: Steps between moves.
        until: The last step before which patches are moved.
    """
    parts, size = model.parts(), model.patch_size
    if parts.position is None or size is None:
        raise ValueError("a model without a position table has nothing to relocate by")
    return Relocation(
        steps=frozenset(range(every, until + 1, every)),
        table=parts.position,
        first_row=parts.prefix_tokens,
        patches=model.patch_count,
        rearrange=lambda images, order: rearrange(images, order, size),
    )


def relocation_order(candidate: Tensor, observed: Tensor) -> Tensor:
    """Where to take each position's patch from.

    Args:
        candidate: `[patches, width]` gradient of the candidate's position rows.
        observed: `[patches, width]` the observed one.

    Returns:
        `[patches]` int64: position `j` should hold the patch that is now at `order[j]`. Positions whose observed row is zero
        keep their patch where the assignment leaves them the choice.
    """
    ours = torch.nn.functional.normalize(candidate.detach().double(), dim=1)
    target = torch.nn.functional.normalize(observed.detach().double(), dim=1)
    cost = 1 - target @ ours.T
    # Equal evidence must not move anything.
    cost = cost - 1e-9 * torch.eye(len(cost), dtype=cost.dtype, device=cost.device)
    _, order = scipy.optimize.linear_sum_assignment(np.asarray(cost.cpu()))
    return torch.from_numpy(order)
