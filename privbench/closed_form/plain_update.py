"""Parameters and gradients of a vision transformer in float64, with LayerScale folded into the layers that it scales.

`x + s ∘ (W a + b)` is a block without LayerScale of weight `s ∘ W` and bias `s ∘ b`, whose gradients are those of W and b
divided by s. What closed forms read of blocks holds for those with LayerScale (CaiT, DeiT III, DINOv2) too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from privbench.closed_form.first_block import centred
from privbench.core import Observation
from privbench.models import Victim

__all__ = ["Update", "scaling_of"]

_SCALED: Mapping[str, tuple[str, str]] = {"ls1": ("attn.proj", "gamma_1"), "ls2": ("mlp.fc2", "gamma_2")}
"""A block's LayerScales: the layer that each scales, and the name that older models give its vector."""


def scaling_of(block: nn.Module, name: str) -> Tensor | None:
    """The vector by which a block scales the output of its attention (`ls1`) or MLP (`ls2`), `[width]` or the number 1.

    Returns:
        None where the block does something else with it.
    """
    older = getattr(block, _SCALED[name][1], None)
    if isinstance(older, nn.Parameter):
        return older
    layer = getattr(block, name, None)
    if layer is None or isinstance(layer, nn.Identity):
        return torch.ones(()) if hasattr(block, name) else None
    gamma = getattr(layer, "gamma", None)
    return gamma if isinstance(gamma, Tensor) else None


@dataclass(frozen=True)
class Update:
    """Parameters and their gradients by name.

    Attributes:
        values: Of the parameters.
        given: Of the gradients.
    """

    values: Mapping[str, Tensor]
    given: Mapping[str, Tensor]

    @classmethod
    def of(cls, model: Victim, observation: Observation) -> "Update":
        """Reads both, LayerScale folded."""
        values = {name: value.detach().double() for name, value in model.named_parameters()}
        given = {name: value.double() for name, value in observation.gradients.items()}
        for index, block in enumerate(cast(Any, model.network).blocks):
            for name, (layer, _) in _SCALED.items():
                scale = scaling_of(block, name)
                if scale is None or scale.ndim != 1:
                    continue
                scale = scale.detach().double()
                for kind in ("weight", "bias"):
                    full = f"network.blocks.{index}.{layer}.{kind}"
                    column = scale[:, None] if kind == "weight" else scale
                    if full in values and full in given:
                        values[full], given[full] = values[full] * column, given[full] / column
        return cls(values, given)

    def added(self, layer: str) -> Tensor:
        """`Σ ε (W a + b)ᵀ`, centred, of a linear layer whose outputs are added to tokens of gradient ε."""
        weight, bias = f"{layer}.weight", f"{layer}.bias"
        total = self.given[weight] @ self.values[weight].T + torch.outer(self.given[bias], self.values[bias])
        return centred(total)
