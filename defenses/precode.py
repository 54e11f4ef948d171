"""PRECODE (Scheliga, Mäder & Seeland, WACV 2022, arXiv 2108.04725): a variational bottleneck in front of the classifier.

The features give mean and deviation of a normal latent; a sample of it, decoded to the features' width, goes to the classifier.
The Kullback-Leibler divergence to the standard normal is part of the client's loss, so also of its update. As in the published
code: one linear encoder for both, the deviation by softplus, the divergence in bits; sampled in training and at inference.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from privbench.core import AttackerView, Defense, ModelInput, Observation, ProtectedInput, UserError
from privbench.models import PenalisedLayer, Victim

__all__ = ["Precode", "VariationalBottleneck", "sampled_noise"]

_CHOICE = "precode.noise"
_LAYER = "head_drop.bottleneck"
_STOCHASTIC = ("network.head_drop.", "network.head.")
"""The gradients that the sample enters directly; it reaches all others through the features' gradient alone."""
_EXACT = 1e-3
"""Misfit of the bottleneck's gradients to one outer product each, from which the noise is not read off any more."""


class VariationalBottleneck(PenalisedLayer):
    """Encodes features as a normal distribution, samples it, and decodes the sample; without noise the mean is decoded.

    Args:
        width: Number of features.
        size: Number of latent dimensions.
        beta: Weight of the divergence.
    """

    noise: Tensor

    def __init__(self, width: int, size: int, beta: float) -> None:
        super().__init__()
        self.size, self.beta = size, beta
        self.encoder, self.decoder = nn.Linear(width, 2 * size), nn.Linear(size, width)
        # Takes `[batch, size]`, standard normal, for one pass; no part of the weights.
        self.register_buffer("noise", torch.empty(0), persistent=False)

    def latent(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation `[batch, size]` of the latent of features `[batch, width]`."""
        encoded = self.encoder(features)
        # Under autocast it comes in half precision, in which no logarithm is taken.
        mean, raw = encoded.to(torch.promote_types(encoded.dtype, torch.float32)).split(self.size, dim=-1)
        return mean, nn.functional.softplus(raw)

    def forward(self, features: Tensor) -> Tensor:
        """`[batch, width]` to the same shape."""
        mean, std = self.latent(features)
        decoded: Tensor = self.decoder(mean if self.noise.numel() == 0 else mean + std * self.noise)
        return decoded

    def penalty(self, features: Tensor) -> Tensor:
        """Beta times the divergence of the latent from the standard normal, in bits, `[batch]`."""
        mean, std = self.latent(features)
        nats = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum(dim=-1)
        return self.beta / math.log(2) * nats


class Precode(Defense):
    """Puts a variational bottleneck between a vision transformer's features and its classifier."""

    name: ClassVar[str] = "precode"

    size: Annotated[int, Field(gt=0, le=65_536)] = 256
    """Number of latent dimensions (published: 256), up to 65536."""
    beta: Annotated[float, Field(ge=0)] = 1e-3
    """Weight of the Kullback-Leibler divergence in the loss (published: 0.001)."""

    def trained_as(self) -> str:
        """A victim that was trained with the bottleneck."""
        return self.name

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Puts the bottleneck in front of the classifier, with fresh weights."""
        network = cast(Any, cast(Victim, model).network)
        head, dropout = getattr(network, "head", None), getattr(network, "head_drop", None)
        if cast(Victim, model).patch_size is None or not isinstance(head, nn.Linear) or not isinstance(dropout, nn.Module):
            raise UserError(
                f"defense precode needs a vision transformer with a linear classifier, given {type(network).__name__}; "
                "choose a timm vit_* or deit_* model"
            )
        bottleneck = VariationalBottleneck(head.in_features, self.size, self.beta)
        network.head_drop = nn.Sequential(OrderedDict(dropout=dropout, bottleneck=bottleneck))
        return model

    def prepare_batch(self, model: nn.Module, batch: ModelInput, generator: torch.Generator) -> ProtectedInput:
        """Draws `[batch, size]` standard normal noise for the sample."""
        noise = torch.randn(len(batch.images), self.size, generator=generator).to(batch.images.device)
        return ProtectedInput(_sampled(batch, noise), {_CHOICE: noise})

    def deployed_input(self, model: nn.Module, batch: ModelInput, generator: torch.Generator) -> ModelInput:
        """A draw at inference too, as published."""
        return self.prepare_batch(model, batch, generator).model_input

    def aware(self, model: nn.Module, observation: Observation) -> AttackerView:
        """For one image the noise is read off the bottleneck's own gradients (remark).

        Where those do not fit, and for a batch, the mean is decoded, and the gradients of bottleneck and classifier, which the
        sample enters directly, are left out (remark; Scheliga et al., arXiv 2208.04767).
        """
        noise = sampled_noise(model, observation)
        if noise is None:
            return AttackerView(remarks=("draw-not-inferred",), transform_gradient=_without_stochastic)
        return AttackerView(_with_draw, {_CHOICE: noise}, ("draw-inferred",), undo=_as_fed)

    def oracle(self, model: nn.Module, observation: Observation) -> AttackerView:
        """The true noise."""
        return AttackerView(_with_draw, {_CHOICE: observation.disclosed[_CHOICE]}, undo=_as_fed)

    def guarantee(self) -> str:
        """What is claimed, and against whom."""
        return (
            "Claimed to keep gradient inversion from converging, because the sampled latent makes the gradients of a batch "
            "random; for an attacker who samples too, on a victim trained with it. No epsilon of its own (n/a)."
        )


def _with_draw(batch: ModelInput, known: Mapping[str, Tensor]) -> ModelInput:
    return _sampled(batch, known[_CHOICE])


def _as_fed(fed: Tensor, _known: Mapping[str, Tensor]) -> Tensor:
    """The layer's noise changes no image."""
    return fed


def _sampled(batch: ModelInput, noise: Tensor) -> ModelInput:
    return batch.with_noise({f"{_LAYER}.noise": noise[None]})


def _without_stochastic(
    simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor], _known: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The observed gradient in place of the simulated one where it is not to be compared: there is no distance."""
    return {name: observed[name] if name.startswith(_STOCHASTIC) else value for name, value in simulated.items()}


def sampled_noise(model: nn.Module, observation: Observation) -> Tensor | None:
    """The noise of one image's sample, read off the gradients of the bottleneck alone.

    A linear layer's weight gradient is the outer product of its bias gradient and its input. So the decoder's gradients hold
    the sample and the encoder's the features, which give mean and deviation of the latent.

    Returns:
        `[1, size]`; None for a batch, whose gradients are sums, or where the gradients are no such products.
    """
    if observation.batch_size > 1:
        return None
    bottleneck = cast(VariationalBottleneck, model.get_submodule(f"network.{_LAYER}"))
    sample, features = (_input_of(observation, f"network.{_LAYER}.{name}") for name in ("decoder", "encoder"))
    if sample is None or features is None:
        return None
    weight, bias = bottleneck.encoder.weight.detach().double(), bottleneck.encoder.bias.detach().double()
    encoded: Tensor = weight @ features + bias
    mean, raw = encoded[: bottleneck.size], encoded[bottleneck.size :]
    noise: Tensor = (sample - mean) / nn.functional.softplus(raw)
    return noise[None].to(bottleneck.encoder.weight.dtype)


def _input_of(observation: Observation, layer: str) -> Tensor | None:
    """What a linear layer read, `[inputs]` float64, of its gradients for one image; None where they do not fit."""
    outer, output = (observation.gradients[f"{layer}.{kind}"].double() for kind in ("weight", "bias"))
    size = output @ output
    if size == 0:
        return None
    found = output @ outer / size
    misfit = (torch.outer(output, found) - outer).norm() / outer.norm().clamp(min=1e-30)
    return found if misfit < _EXACT else None
