"""Mixup (Zhang et al., ICLR 2018, arXiv 1710.09412) as a defense: the client trains on mixtures of two of its images.

One coefficient for the batch, drawn from Beta(alpha, alpha), mixes the batch with itself in a random order, images and labels
alike; an image may meet itself, as in the published code. The gradient is that of the mixed batch with its soft labels.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from privbench.core import AttackerView, Defense, Effect, ModelInput, Observation, ProtectedInput

__all__ = ["Mixup", "expected_targets", "mixed", "unmixed"]

_CHOICE = "mixup.weights"


class Mixup(Defense):
    """Mixes every image and label of the batch with another one's."""

    name: ClassVar[str] = "mixup"
    effects: ClassVar[frozenset[Effect]] = frozenset({"mixed-samples"})

    alpha: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Of the Beta distribution of the coefficient: 1 is uniform (published for CIFAR-10), small values hardly mix."""

    def smallest_batch(self) -> int:
        """Two images to mix."""
        return 2

    def prepare_batch(self, model: nn.Module, batch: ModelInput, generator: torch.Generator) -> ProtectedInput:
        """Draws coefficient and order; the secret choice is `[batch, batch]`, what of each image is in each mixture."""
        count = len(batch.images)
        # torch's own Beta distribution takes no generator.
        random = np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator)))
        share = float(random.beta(self.alpha, self.alpha))
        identity = torch.eye(count)
        weights = share * identity + (1 - share) * identity[torch.randperm(count, generator=generator)]
        weights = weights.to(batch.images)
        return ProtectedInput(mixed(batch, weights), {_CHOICE: weights})

    def aware(self, model: nn.Module, observation: Observation) -> AttackerView:
        """The mixed images, each with the expected soft label (remark).

        The gradient describes the mixed images, and those are what this adversary, as the unaware, recovers. An image is named
        after its heavier part, whose coefficient is `max(lambda, 1 - lambda)`; the rest falls to each image of the batch alike.
        """
        # The mean absolute deviation of Beta(a, a) is 1 / (a 4^a B(a, a)).
        log_beta = 2 * math.lgamma(self.alpha) - math.lgamma(2 * self.alpha)
        heavier = 0.5 + math.exp(-math.log(self.alpha) - self.alpha * math.log(4) - log_beta)
        count = observation.batch_size
        own = heavier + (1 - heavier) / count
        return AttackerView(expected_targets(own, count), remarks=("mixing-not-inferred",))

    def oracle(self, model: nn.Module, observation: Observation) -> AttackerView:
        """Candidates and labels are mixed as the client's were, and mixtures that come back are taken apart."""
        return AttackerView(
            lambda given, known: mixed(given, known[_CHOICE]),
            {_CHOICE: observation.disclosed[_CHOICE]},
            undo=lambda fed, known: unmixed(fed, known[_CHOICE]),
        )

    def guarantee(self) -> str:
        """Not made for privacy."""
        return (
            "Its authors claim nothing for privacy; as a defense it hides images behind mixtures of two, from an attacker who "
            "is not told coefficient and order. No epsilon of its own (n/a)."
        )


def mixed(batch: ModelInput, weights: Tensor) -> ModelInput:
    """The batch with every image and label replaced by a mixture of the batch's.

    Args:
        batch: `[batch]` images, which may have been mixed before.
        weights: `[batch, batch]`, rows that sum to one.
    """
    images = torch.einsum("ij,jchw->ichw", weights, batch.images)
    labels = weights if batch.label_mixing is None else weights @ batch.label_mixing
    # Sums of float32 leave [0, 1] by rounding.
    return replace(batch, images=images.clamp(0, 1), label_mixing=labels)


def unmixed(mixtures: Tensor, weights: Tensor) -> Tensor:
    """The images of least norm with these mixtures, in [0, 1]: the images themselves where the weights have an inverse.

    Args:
        mixtures: `[batch, 3, height, width]`.
        weights: As of `mixed`.
    """
    return torch.einsum("ij,jchw->ichw", torch.linalg.pinv(weights), mixtures).clamp(0, 1)


def expected_targets(own: float, count: int) -> Callable[[ModelInput, Mapping[str, Tensor]], ModelInput]:
    """A simulated pass over mixed images whose soft labels are known in expectation alone.

    Args:
        own: Expected coefficient of each image's own label; the others of the batch share the rest alike.
        count: Images of the batch.
    """

    def transform(given: ModelInput, _known: Mapping[str, Tensor]) -> ModelInput:
        identity = torch.eye(count, dtype=given.images.dtype, device=given.images.device)
        weights = own * identity + (1 - own) / max(count - 1, 1) * (1 - identity)
        return replace(given, label_mixing=weights if given.label_mixing is None else weights @ given.label_mixing)

    return transform
