"""InstaHide (Huang et al., ICML 2020, arXiv 2010.02772), inside one data set: mixtures of k private images with random signs.

Every image is mixed with k - 1 others of the client's batch; the coefficients are normal draws' magnitudes, scaled to sum to
one and drawn again while one exceeds a bound; then the sign of every entry is flipped at random. Labels are mixed, signs do not
touch them. Our pool is the batch, so a sample's k images are made to differ; at the size of a data set, which the published
code permutes, they do by chance. Signs are those of pixels scaled to [-1, 1], so a flip is a reflection at mid-grey.
"""

from dataclasses import replace
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from privbench.core import AttackerView, Defense, Effect, ModelInput, Observation, ProtectedInput
from privbench.defenses.mixup import expected_targets, mixed, unmixed

__all__ = ["InstaHide", "coefficients"]

_WEIGHTS, _SIGNS = "instahide.weights", "instahide.signs"
_SEED = 2010
"""Of the draws by which the aware adversary knows the expected coefficient."""
_DRAWS = 4096
_ROUNDS = 1000
"""Rounds of draws until every sample has coefficients below the bound."""
_SLACK = 1.2
"""The bound over the smallest possible one, 1 / k, below which draws that keep it are too rare."""


class InstaHide(Defense):
    """Mixes k images and flips the signs of the mixture's pixels at random."""

    name: ClassVar[str] = "instahide"
    effects: ClassVar[frozenset[Effect]] = frozenset({"mixed-samples"})

    k: Annotated[int, Field(ge=2, le=16)] = 4
    """Images in a mixture (published: 4)."""
    largest: Annotated[float, Field(gt=0, le=1)] = 0.65
    """Bound of every coefficient (published: 0.65)."""

    @model_validator(mode="after")
    def _bound_can_be_kept(self) -> Self:
        if self.largest * self.k < _SLACK:
            raise ValueError(
                f"coefficients of {self.k} images that sum to one hardly ever stay below largest={self.largest:g}; "
                f"accepted: {_SLACK / self.k:.3g} to 1"
            )
        return self

    def smallest_batch(self) -> int:
        """As many images as are mixed."""
        return self.k

    def prepare_batch(self, model: nn.Module, batch: ModelInput, generator: torch.Generator) -> ProtectedInput:
        """Draws who is mixed with whom, the coefficients and the signs.

        A rest of a test set that has fewer than k images is mixed with what is there.
        """
        count = len(batch.images)
        shares = coefficients(count, min(self.k, count), self.largest, generator)
        # Turning a ring that is drawn at random pairs every image with others alone.
        ring = torch.randperm(count, generator=generator)
        turns = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(count - 1, generator=generator)])
        weights = torch.zeros(count, count)
        for share, turn in zip(shares.T, turns.tolist(), strict=False):
            weights[ring, ring.roll(-turn)] = share
        signs = 2.0 * torch.randint(2, batch.images.shape, generator=generator) - 1
        weights, signs = weights.to(batch.images), signs.to(batch.images)
        return ProtectedInput(_encoded(batch, weights, signs), {_WEIGHTS: weights, _SIGNS: signs})

    def aware(self, model: nn.Module, observation: Observation) -> AttackerView:
        """The encoded images, each with the expected soft label, named after its heaviest image.

        The gradient describes the encoded images, and those are what this adversary, as the unaware, recovers; signs and mixing
        are not inferred (remarks).
        """
        draws = coefficients(_DRAWS, self.k, self.largest, torch.Generator().manual_seed(_SEED))
        transform = expected_targets(float(draws.amax(dim=1).mean()), observation.batch_size)
        return AttackerView(transform, remarks=("mixing-not-inferred", "signs-not-inferred"))

    def oracle(self, model: nn.Module, observation: Observation) -> AttackerView:
        """Candidates and labels are encoded as the client's were, and what comes back is decoded."""
        return AttackerView(
            lambda given, known: _encoded(given, known[_WEIGHTS], known[_SIGNS]),
            {name: observation.disclosed[name] for name in (_WEIGHTS, _SIGNS)},
            undo=lambda fed, known: unmixed(_reflected(fed, known[_SIGNS]), known[_WEIGHTS]),
        )

    def guarantee(self) -> str:
        """What was claimed, and that it fell."""
        return (
            "Claimed to hide images behind mixtures and random signs, by a likeness to subset-sum problems; broken where many "
            "encodings are seen (Carlini et al., S&P 2021); here the attacker sees their gradient. No epsilon of its own (n/a)."
        )


def coefficients(samples: int, k: int, largest: float, generator: torch.Generator) -> Tensor:
    """`[samples, k]`, rows that sum to one: magnitudes of normal draws, drawn again while one exceeds `largest`.

    Args:
        samples: Rows.
        k: Coefficients of a row; one alone is one.
        largest: The bound, well above 1 / k.
        generator: Source of the draws.

    Raises:
        RuntimeError: The bound is so low that no draw kept it.
    """
    shares = torch.ones(samples, k)
    pending = torch.ones(samples, dtype=torch.bool)
    for _ in range(_ROUNDS):
        drawn = torch.randn(samples, k, generator=generator).abs()
        shares[pending] = (drawn / drawn.sum(dim=1, keepdim=True))[pending]
        pending = shares.amax(dim=1) > largest
        if k * largest <= 1 or not pending.any():
            return shares
    raise RuntimeError(f"no coefficients of {k} images below {largest}")


def _encoded(batch: ModelInput, weights: Tensor, signs: Tensor) -> ModelInput:
    """The batch mixed by `weights` `[batch, batch]`, reflected at mid-grey where `signs` `[batch, 3, height, width]` are -1."""
    mixture = mixed(batch, weights)
    return replace(mixture, images=_reflected(mixture.images, signs))


def _reflected(images: Tensor, signs: Tensor) -> Tensor:
    return 0.5 + signs * (images - 0.5)
