"""The client's loss, in one place: the client computes it, attackers simulate it, and victims are trained with it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from privbench.core import ModelInput
from privbench.models.victim import Victim

__all__ = ["PenalisedLayer", "client_loss", "forward", "tokens_after"]


class PenalisedLayer(nn.Module, ABC):
    """A layer that adds to the loss, such as a variational bottleneck."""

    @abstractmethod
    def penalty(self, features: Tensor) -> Tensor:
        """What it adds for each image, `[batch]`, of what it is given in a forward pass, `[batch, ...]`."""


def forward(victim: Victim, given: ModelInput, parameters: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor | None]:
    """One forward pass and what the network's layers add to the loss in it.

    Args:
        victim: The model; left as found.
        given: What it is fed.
        parameters: Stand in for the model's own, by name.

    Returns:
        `[batch, classes]` logits, and the sum of the layers' penalties, each the mean over the batch; None without such layers.
    """
    penalties: list[Tensor] = []

    def record(layer: PenalisedLayer, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        penalties.append(layer.penalty(*inputs).mean())

    # Within the pass, so that a layer sees the parameters that stand in for its own.
    hooks = [layer.register_forward_hook(record) for layer in victim.modules() if isinstance(layer, PenalisedLayer)]
    try:
        logits: Tensor = torch.func.functional_call(victim, dict(parameters or {}), given.arguments)
    finally:
        for hook in hooks:
            hook.remove()
    return logits, torch.stack(penalties).sum() if penalties else None


def tokens_after(victim: Victim, given: ModelInput, blocks: int, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
    """The tokens after the first blocks of a vision transformer, `[batch, tokens, width]`, prefix tokens first.

    Args:
        victim: The model; left as found.
        given: What it is fed.
        blocks: How many blocks.
        parameters: Stand in for the model's own, by name.
    """
    tokens: Tensor = torch.func.functional_call(victim, dict(parameters or {}), given.arguments, {"blocks": blocks})
    return tokens


def client_loss(victim: Victim, given: ModelInput, labels: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
    """Mean cross-entropy over the batch, and what the network's layers add, a scalar.

    Args:
        victim: The model; left as found.
        given: What it is fed; its mixing applies to the labels.
        labels: `[batch]` int64, or `[batch, classes]` probabilities.
        parameters: Stand in for the model's own, by name.
    """
    logits, penalty = forward(victim, given, parameters)
    # Under autocast the logits come in half precision.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = nn.functional.cross_entropy(logits, given.targets(labels, logits.shape[1]))
    return loss if penalty is None else loss + penalty
