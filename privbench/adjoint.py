"""The first block alone, with what lies behind it as a variable: the client's gradient without the client's depth.

The gradients of embedding and first block depend on the rest of the network only through the derivative D of the loss by that
block's output z. With the loss <z, D> and D free, one block is simulated instead of all, and the landscape of a deep network is
left out. For an image alone and a learned position table, the table's gradient is the derivative by the block's input, token by
token, and D starts there. This is ours; no paper that we know has it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from privbench.adversary import Simulation
from privbench.core import ModelInput, Observation
from privbench.core.patches import to_patches
from privbench.inversion import PatchEquations, Simulator, whitening
from privbench.models import Victim, tokens_after

__all__ = [
    "ADJOINT",
    "EQUATION_WEIGHTS",
    "SMALL",
    "FreeAdjoint",
    "equation_weights",
    "first_block_simulator",
    "free_adjoint",
    "has_free_adjoint",
    "hidden_patches",
    "patch_equations",
    "patch_sizes",
    "variation_weights",
]

SMALL = 64
"""Pixels up to which an image counts as small."""
ADJOINT = "adjoint"
"""Name of the variable: D in units of `FreeAdjoint.scale`."""
_SCALE = "adjoint-scale"
EQUATION_WEIGHTS = "equation-weights"
"""Name of the matrix of `patch_equations` in the context."""


@dataclass(frozen=True)
class FreeAdjoint:
    """Where the adjoint of one client starts.

    Attributes:
        scale: `[tokens, 1]`, the size of D's entries at each token.
        start: `[batch, tokens, width]`, in units of `scale`.
    """

    scale: Tensor
    start: Tensor

    @property
    def context(self) -> dict[str, Tensor]:
        """What the simulator needs of it."""
        return {_SCALE: self.scale}


def has_free_adjoint(model: Victim, observation: Observation) -> bool:
    """Whether it applies: to a vision transformer with a learned position table whose gradient was sent.

    Of several images only above 64 pixels: below them the whole network is small, and what its last block tells of each image
    (`sample_features`) tells images apart better.
    """
    if model.patch_size is None or not hasattr(model.network, "forward_intermediates"):
        return False
    table = model.parts().position
    has_rows = table is not None and table in observation.gradients
    return has_rows and (observation.batch_size == 1 or model.image_size > SMALL)


def first_block_simulator(simulation: Simulation) -> Simulator:
    """A loss whose gradients by embedding and first block are the client's at the client's images and adjoint."""

    def loss(parameters: Mapping[str, Tensor], images: Tensor, context: Mapping[str, Tensor]) -> Tensor:
        given = simulation.view.fed(ModelInput(images), context)
        tokens = tokens_after(simulation.model, given, 1, parameters)
        return (tokens * (context[_SCALE] * context[ADJOINT])).sum()

    return loss


def free_adjoint(simulation: Simulation, gradients: Mapping[str, Tensor], images: int = 1) -> FreeAdjoint:
    """The derivative by the first block's input, which a residual network hands on: as much of it as the gradient tells.

    Tokens without a row of their own get a share of the shared "unknown" row; those of which nothing is known start at zero,
    and move as much as the median token.

    Args:
        simulation: What the adversary believes of this client.
        gradients: The gradients that it compares with, the position table's among them.
        images: Of the batch; each starts with an equal share of the sum.
    """
    model = simulation.model
    patches = patch_rows(model, gradients)
    hidden = hidden_patches(simulation, patches.device)
    if hidden is not None and model.has_unknown_position:
        shared = gradients[cast(str, model.parts().position)].flatten(0, -2)[-1]
        patches = torch.where(hidden[:, None], shared / hidden.sum().clamp(min=1), patches)
    rows = torch.cat([_prefix_rows(model, gradients), patches])
    sizes = rows.square().mean(1).sqrt()
    present = sizes > 0
    if hidden is not None:
        present = present & ~torch.nn.functional.pad(hidden, (len(rows) - len(hidden), 0))
    typical = _median_where(present, sizes)
    scale = torch.where(present, sizes, typical)[:, None]
    return FreeAdjoint(scale / images, (rows / scale).expand(images, -1, -1))


def patch_rows(model: Victim, gradients: Mapping[str, Tensor]) -> Tensor:
    """The gradient of each patch's own position row, `[patches, width]`."""
    parts = model.parts()
    table = gradients[cast(str, parts.position)].flatten(0, -2)
    return table[parts.prefix_tokens : parts.prefix_tokens + model.patch_count]


def hidden_patches(simulation: Simulation, device: torch.device) -> Tensor | None:
    """The patches `[patches]` bool that the adversary believes to use the shared unknown row; None where there is none."""
    size = simulation.model.image_size
    fed = simulation.view.fed(ModelInput(torch.zeros(1, 3, size, size, device=device)), simulation.view.known)
    return fed.unknown_positions


def patch_equations(simulation: Simulation) -> PatchEquations:
    """The closed forms' linear system as a term; `equation_weights` belong into the context.

    Args:
        simulation: What the adversary believes of any of the clients.
    """
    model, parts, size = simulation.model, simulation.model.parts(), cast(int, simulation.model.patch_size)

    def patches(images: Tensor, context: Mapping[str, Tensor]) -> Tensor:
        fed = simulation.view.fed(ModelInput(images), context).images
        return to_patches((fed - model.mean) / model.std, size).flatten(2)

    return PatchEquations(parts.patch_weight, cast(str, parts.position), parts.prefix_tokens, patches, EQUATION_WEIGHTS)


def equation_weights(model: Victim, gradients: Mapping[str, Tensor], floor: float) -> Tensor:
    """The matrix that weighs one client's equations, `[width, width]` (`inversion.whitening`)."""
    return whitening(patch_rows(model, gradients), floor)


def patch_sizes(simulation: Simulation, gradients: Mapping[str, Tensor]) -> Tensor:
    """How much the gradient tells of each patch, `[patches]`: the length of its row, relative to the median of the known ones.

    A hidden patch counts as half the median one.
    """
    lengths = patch_rows(simulation.model, gradients).norm(dim=1)
    hidden = hidden_patches(simulation, lengths.device)
    known = lengths > 0 if hidden is None else ~hidden & (lengths > 0)
    relative = torch.where(known.any(), lengths / _median_where(known, lengths), 1.0)
    return relative if hidden is None else torch.where(hidden & known.any(), 0.5, relative)


def variation_weights(
    simulation: Simulation, observation: Observation, gradients: Mapping[str, Tensor], balance: float
) -> Tensor:
    """What each pixel's variation counts, `[height, width]`, from 0.1 to 10: more in patches of which little is told.

    Args:
        simulation: What the adversary believes of this client.
        observation: The client's update; where no adjoint can be started from it, all pixels count 1.
        gradients: The gradients that it compares with.
        balance: By which power of `patch_sizes` a patch counts less.
    """
    model, size = simulation.model, simulation.model.image_size
    if not has_free_adjoint(model, observation) or model.patch_size is None or model.grid is None:
        return torch.ones(size, size, device=observation.device)
    weights = patch_sizes(simulation, gradients).clamp(min=1e-6).pow(-balance).clamp(0.1, 10.0).reshape(model.grid)
    return weights.repeat_interleave(model.patch_size, 0).repeat_interleave(model.patch_size, 1)


def _median_where(chosen: Tensor, values: Tensor) -> Tensor:
    """The median of the chosen values, a scalar; 1 where none is. No value is read, so that nothing waits for a GPU."""
    return torch.where(chosen, values, torch.nan).nanmedian().nan_to_num(1.0)


def _prefix_rows(model: Victim, gradients: Mapping[str, Tensor]) -> Tensor:
    """The derivatives by the prefix tokens, `[prefix, width]`."""
    parts, network = model.parts(), cast(Any, model.network)
    if parts.prefix_tokens:
        return gradients[cast(str, parts.position)].flatten(0, -2)[: parts.prefix_tokens]
    width = patch_rows(model, gradients).shape[1]
    found = [gradients[name].reshape(-1, width) for name in ("network.cls_token", "network.reg_token") if name in gradients]
    count = int(network.num_prefix_tokens)
    rows = torch.cat(found) if found else gradients[cast(str, parts.position)].new_zeros(0, width)
    return rows if len(rows) == count else rows.new_zeros(count, width)
