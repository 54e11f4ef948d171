"""Token-consistent stochastic layers (Popovic et al., arXiv 2112.15111; "Token-consistent dropout", ICIP 2023).

A linear layer with random, uniformly distributed parameters inside the MLP of every block, drawn anew for every image, in
training and at inference, and the same for all tokens of the image. The abstract says no more, so these are our choices: the
layer stands behind the activation, in front of the second linear layer; it has one factor per feature or a whole matrix; its
mean is the identity, so that the model without the layers is its mean, or zero. It has no trained parameter.
"""

import math
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from privbench.core import AttackerView, Defense, ModelInput, Observation, ProtectedInput, UserError
from privbench.models import Victim

__all__ = ["StochasticLayers", "TokenConsistentLinear"]

_CHOICE = "stochastic-layers.transforms"
_SEED = 2112
"""Of the draws that adversaries make who are not told the client's: the same at every step and for every client."""


class TokenConsistentLinear(nn.Module):
    """Applies one linear map per image to the features of all its tokens; the identity as long as no map is given.

    Args:
        width: Number of features.
    """

    transform: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        # Takes `[batch, width]` or `[batch, width, width]` for one pass; no part of the weights.
        self.register_buffer("transform", torch.empty(0), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """`[batch, tokens, width]` to the same shape."""
        if self.transform.numel() == 0:
            return features
        return features * self.transform[:, None] if self.transform.dim() == 2 else features @ self.transform


class StochasticLayers(Defense):
    """Transforms the hidden features of every MLP by a random linear layer, one draw per image."""

    name: ClassVar[str] = "stochastic-layers"

    form: Literal["diagonal", "full"] = "diagonal"
    """`diagonal`: one random factor per feature; `full`: a matrix, which takes much memory (width squared)."""
    spread: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Half-width of the uniform distribution; of a matrix's entries in units of 1 / sqrt(width)."""
    mean: Literal["identity", "zero"] = "identity"
    """Mean of the transform; `zero` leaves nothing but chance and needs a victim that was trained with it."""
    simulated_draws: Annotated[int, Field(gt=0, le=1024)] = 4
    """Number of draws of its own that the aware adversary averages over."""

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Puts a layer behind every MLP's activation; names and number of weights stay what they are."""
        from timm.layers.mlp import Mlp

        blocks = getattr(cast(Victim, model).network, "blocks", None)
        perceptrons = [getattr(block, "mlp", None) for block in blocks] if blocks is not None else []
        if not perceptrons or not all(isinstance(one, Mlp) and isinstance(one.fc2, nn.Linear) for one in perceptrons):
            raise UserError(
                "defense stochastic-layers needs a vision transformer whose blocks hold a two-layer MLP, given "
                f"{type(cast(Victim, model).network).__name__}; choose a timm vit_* or deit_* model"
            )
        for one in cast(Any, perceptrons):
            one.act = nn.Sequential(one.act, TokenConsistentLinear(one.fc2.in_features))
        return model

    def prepare_batch(self, model: nn.Module, batch: ModelInput, generator: torch.Generator) -> ProtectedInput:
        """Draws `[layers, batch, width]` or `[layers, batch, width, width]`."""
        transforms = self._draw(model, len(batch.images), generator).to(batch.images.device)
        return ProtectedInput(_with_noise(batch, _layer_names(model), transforms[:, None]), {_CHOICE: transforms})

    def deployed_input(self, model: nn.Module, batch: ModelInput, generator: torch.Generator) -> ModelInput:
        """A draw at inference too, as published."""
        return self.prepare_batch(model, batch, generator).model_input

    def unaware(self, model: nn.Module, observation: Observation) -> AttackerView:
        """The model as it is, with a draw of its own, which this adversary takes for the client's."""
        return self._own_draws(model, observation, 1)

    def aware(self, model: nn.Module, observation: Observation) -> AttackerView:
        """The mean of the logits over a few draws of its own, the same throughout an attack (remark)."""
        return replace(self._own_draws(model, observation, self.simulated_draws), remarks=("draw-not-inferred",))

    def oracle(self, model: nn.Module, observation: Observation) -> AttackerView:
        """The true draw."""
        names = _layer_names(model)
        return AttackerView(
            lambda given, known: _with_noise(given, names, known[_CHOICE][:, None]),
            {_CHOICE: observation.disclosed[_CHOICE]},
            undo=lambda fed, _: fed,
        )

    def _own_draws(self, model: nn.Module, observation: Observation, number: int) -> AttackerView:
        names, generator = _layer_names(model), torch.Generator().manual_seed(_SEED)
        draws = [self._draw(model, observation.batch_size, generator) for _ in range(number)]
        own = torch.stack(draws, dim=1).to(observation.device)
        return AttackerView(lambda given, _: _with_noise(given, names, own), undo=lambda fed, _: fed)

    def guarantee(self) -> str:
        """Hides features; on weights trained without it, it is a transform after the fact."""
        return (
            "Claimed to keep features from being inverted by an attacker who does not know the draw, on a victim trained with "
            "the layers; on other weights it is a perturbation after training. No claim is made for gradients."
        )

    def _draw(self, model: nn.Module, batch: int, generator: torch.Generator) -> Tensor:
        widths = [cast(TokenConsistentLinear, model.get_submodule(_module(name))).width for name in _layer_names(model)]
        return torch.stack([self._transforms(width, batch, generator) for width in widths])

    def _transforms(self, width: int, batch: int, generator: torch.Generator) -> Tensor:
        full = self.form == "full"
        drawn = torch.rand((batch, width, width) if full else (batch, width), generator=generator)
        # In place: matrices for a batch are the largest tensors there are.
        noise = drawn.mul_(2).sub_(1).mul_(self.spread / math.sqrt(width) if full else self.spread)
        if self.mean == "zero":
            return noise
        return noise.add_(torch.eye(width)) if full else noise.add_(1)


def _layer_names(model: nn.Module) -> list[str]:
    """The buffers of the random layers, by the names that they have in the victim's network."""
    network = cast(Victim, model).network
    return [f"{name}.transform" for name, layer in network.named_modules() if isinstance(layer, TokenConsistentLinear)]


def _module(buffer: str) -> str:
    return f"network.{buffer.removesuffix('.transform')}"


def _with_noise(batch: ModelInput, names: list[str], transforms: Tensor) -> ModelInput:
    """The input with `transforms` `[layers, draws, batch, ...]` for the layers of these names."""
    return batch.with_noise({name: transforms[i] for i, name in enumerate(names)})
