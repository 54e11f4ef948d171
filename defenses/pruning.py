"""Pruning: only the gradient's largest entries are sent (Deep Gradient Compression, Lin et al., ICLR 2018, arXiv 1712.01887).

Deep Leakage from Gradients (Zhu et al., NeurIPS 2019) proposed it as a defense. Here it is one update alone: what is not sent
is not kept for later rounds, as the compression does.
"""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from privbench.core import AttackerView, Defense, Observation

__all__ = ["GradientPruning"]


class GradientPruning(Defense):
    """Sets the entries of smallest magnitude to zero."""

    name: ClassVar[str] = "pruning"

    p: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Share of the entries that are set to zero, rounded down to whole entries."""
    scope: Literal["layer", "global"] = "layer"
    """Whether the share holds for every parameter by itself (as in both papers) or for all entries together."""

    def protect_gradients(self, gradients: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Keeps the largest entries; of equal ones as many as the share allows."""
        if self.scope == "layer":
            return {name: self._pruned(value.flatten()).reshape(value.shape) for name, value in gradients.items()}
        whole = self._pruned(torch.cat([value.flatten() for value in gradients.values()]))
        parts = torch.split(whole, [value.numel() for value in gradients.values()])
        return {name: part.reshape(value.shape) for (name, value), part in zip(gradients.items(), parts, strict=True)}

    def _pruned(self, entries: Tensor) -> Tensor:
        # The tolerance keeps a product such as 0.29 * 100 from losing an entry to rounding.
        zeros = math.floor(self.p * len(entries) + 1e-6)
        kept = entries.abs().topk(len(entries) - zeros, sorted=False).indices
        pruned = torch.zeros_like(entries)
        pruned[kept] = entries[kept]
        return pruned

    def aware(self, model: nn.Module, observation: Observation) -> AttackerView:
        """Only entries that were sent are compared: the simulated gradient is set to zero where the observed one is.

        The unaware takes zeros for gradients of zero. There is no random choice that an oracle could be told.
        """
        return AttackerView(transform_gradient=_with_pattern, entries_are_exact=False)

    def guarantee(self) -> str:
        """A heuristic."""
        return (
            f"Sends only the largest {100 * (1 - self.p):.4g} % of the entries, and so less to match; proposed against "
            "attackers who take the missing entries for zeros; no epsilon of its own (n/a): nothing is random."
        )


def _with_pattern(
    simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor], _known: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    return {name: torch.where(observed[name] != 0, value, 0) for name, value in simulated.items()}
