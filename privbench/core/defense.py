"""The contract of a defense: hooks with no-op defaults, so that one file says one idea."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from privbench.core.component import Component
from privbench.core.errors import UserError
from privbench.core.model_input import ModelInput
from privbench.core.observation import Observation

__all__ = ["AttackerView", "Defense", "Effect", "Estimate", "ProtectedInput", "ScrambledPixels", "Send", "TrainingRule"]

Effect = Literal["batch-gradient", "noise-of-given-size", "mixed-samples"]
"""What a defense does that another may not stand (`Defense.not_after`).

`batch-gradient`: it takes the gradient of the whole batch, so that no sample's own gradient is left; every defense with a
`protect_gradients` of its own does. `noise-of-given-size`: it promises the size of its noise in what is sent. `mixed-samples`:
what one sample gives depends on the others (one is made of several, or one mask is chosen for all), before any gradient is
computed and so wherever it is written.
"""

Send = Callable[[Mapping[str, Tensor], Mapping[str, Tensor], Mapping[str, Tensor]], dict[str, Tensor]]
"""What an adversary does to one candidate's gradient before it is compared: `(simulated, observed, known) -> sent`.

Gradients are by parameter name, `[*shape]`, of the parameters that an attack matches, which need not be all; `known` is as in
`AttackerView`. Differentiable in the simulated gradients (straight through where the true derivative is zero), and a function
of its arguments alone without control flow that depends on values.
"""


Estimate = Callable[[Iterable[str]], Mapping[str, Tensor]]
"""From names of parameters to what an adversary takes their gradients to have been before they were sent, of those of them
that sending changed in a way that it can partly undo. Made when an attack asks for it, because it may take seconds."""


def _as_sent(_names: Iterable[str]) -> Mapping[str, Tensor]:
    return {}


def _unchanged(model_input: ModelInput, _known: Mapping[str, Tensor]) -> ModelInput:
    return model_input


@dataclass(frozen=True)
class ProtectedInput:
    """The client's batch after a defense: what the model is fed, and the random choices behind it (secret).

    Attributes:
        model_input: What the model is fed.
        choices: By name, `defense.choice`. Two endings have a form, and what an attack infers of them is scored:
            `defense.mask`, `[patches]` bool, the places of the fed image whose patches use the shared "unknown" row, and
            `defense.order`, `[patches]` int64, the place in the private image of the patch at each place of the fed one.
    """

    model_input: ModelInput
    choices: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class ScrambledPixels:
    """That the client permuted the pixels inside patches, in all channels alike, in an order that the adversary does not know.

    Attributes:
        per: One permutation for all patches of a batch, or one for each place of the patch grid.
        choice: Name of the choice, by which an attack states what it found: `[patches, pixels]` int64, the pixel of the private
            patch that each place of the fed one holds.
    """

    per: Literal["batch", "patch"]
    choice: str


@dataclass(frozen=True)
class AttackerView:
    """How an attacker's simulation of the client differs from the plain forward pass.

    Attributes:
        feed: Applied to candidate images and `known` before the simulated forward pass; differentiable in the images, and a
            function of its arguments alone, so that several clients can be simulated in one pass.
        known: What the adversary was told or has inferred of the client's random choices, by name as in `ProtectedInput`.
        flags: What the reader of a score should know about this view, such as `order-not-inferred`.
        movable: `[patches]` bool, the places whose patches the client may have permuted among themselves in an order that the
            adversary knows of and does not know; None where there are none. An attack that finds the order replaces the flag
            `order-not-inferred` by `order-inferred`.
        inferred: Names in `known` of what the adversary found out about the client's random choices without being told.
        order: Name of the choice that permuted them, by which an attack states what it found; None where there is none.
        scrambled: How pixels inside patches were permuted, as far as the adversary knows; None where they were not. An attack
            that finds the permutation replaces the flag `pixels-not-inferred` by `pixels-inferred`.
        send: Applied to a simulated gradient before it is compared with the observed one; None: compared as it is.
        within: Stands for `send` where a later part of a composition changes what this one sent, so that it cannot look at what
            was observed entry by entry; None: `send` itself.
        exact: Whether the adversary takes single entries of the observed gradient at their word; not where it knows them to be
            noisy, rounded or set to zero. Attacks that read something off an entry look here.
        expected: The adversary's estimate of the gradient behind the observed one, which attacks take in its place. Entries of
            an estimate are not to be taken at their word either.
    """

    feed: Callable[[ModelInput, Mapping[str, Tensor]], ModelInput] = _unchanged
    known: Mapping[str, Tensor] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    movable: Tensor | None = None
    inferred: tuple[str, ...] = ()
    order: str | None = None
    scrambled: ScrambledPixels | None = None
    send: Send | None = None
    within: Send | None = None
    exact: bool = True
    expected: Estimate = _as_sent


@dataclass(frozen=True)
class TrainingRule:
    """The learning rate of certain weights.

    Attributes:
        names: The weights.
        rate: The learning rate of a weight for this step, from the weight, its gradient as the client sent it, and the
            schedule's rate.
    """

    names: tuple[str, ...]
    rate: Callable[[Tensor, Tensor, float], float]


class Defense(Component, ABC):
    """Base class of defenses; override the hooks that the idea needs.

    Defenses compose in the order in which they are written: model, batch and gradient hooks are applied one after another.
    """

    kind: ClassVar[str] = "defense"
    effects: ClassVar[frozenset[Effect]] = frozenset()
    """What it does that another defense may not stand, besides `batch-gradient`, which shows by itself."""
    not_after: ClassVar[Mapping[Effect, str]] = MappingProxyType({})
    """After what it may not come, and why: there it would not do what it claims, or spoil what the other one claims."""

    def trained_as(self) -> str:
        """Which embedded victim this defense runs on: the name of the defense that it was trained with."""
        return "none"

    def smallest_batch(self) -> int:
        """How many images a client must have at least."""
        return 1

    def require_batch(self, size: int) -> None:
        """Raises `UserError` where a batch has too few images."""
        if size < self.smallest_batch():
            raise UserError(
                f"defense {self.name} mixes the images of a batch and needs {self.smallest_batch()} or more, given {size}; "
                "raise --batch-size"
            )

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Changes the architecture (public: the server knows it). Called before weights are loaded.

        Raises:
            UserError: The defense does not fit this model.
        """
        return model

    def prepare_batch(self, model: nn.Module, batch: ModelInput, generator: torch.Generator) -> ProtectedInput:
        """Changes what the client feeds its model; the random choices it returns stay secret."""
        return ProtectedInput(batch)

    def training_batch(
        self, model: nn.Module, batch: ModelInput, generator: torch.Generator, progress: float
    ) -> ProtectedInput:
        """The same during training; `progress` runs from 0 to 1 (warm-up phases, probabilities)."""
        return self.prepare_batch(model, batch, generator)

    def initialise_training(self, model: nn.Module) -> None:
        """Draws first weights anew where the published training starts from others; torch's global source is seeded for it.

        Called once, before the first step of a training run; weights that are loaded are left as they are.
        """

    def decayed_weights(self) -> tuple[str, ...]:
        """Weights that the recipe spares from weight decay (position table, class token) and this training does not."""
        return ()

    def extra_loss(self, model: nn.Module) -> nn.Module | None:
        """A training loss of the defense that carries nothing of the images and so is no part of an update, or None.

        A loss that reads the images' features belongs to the layer that makes them (`models.PenalisedLayer`).

        A module `(model, model_input, progress) -> scalar`; its own parameters are trained with the model and then dropped.
        """
        return None

    def protect_samples(
        self, samples: dict[str, Tensor], generator: torch.Generator, expected: int | None = None
    ) -> dict[str, Tensor]:
        """Makes the batch's gradient of the gradients of its samples; by default their mean.

        A defense that overrides it makes the client compute a gradient for every sample, and training draw its batches as
        accountants of privacy assume: every image independently, so that the size of a batch varies and may be 0.

        Args:
            samples: Parameter name to `[batch, *shape]`.
            generator: Source of noise.
            expected: What their sum is divided by, the expected size of a batch that was drawn at random; None: its size.

        Returns:
            Parameter name to `[*shape]`.
        """
        return {name: values.sum(0) / (expected or len(values)) for name, values in samples.items()}

    def takes_samples(self) -> bool:
        """Whether it works on the gradients of single samples."""
        return type(self).protect_samples is not Defense.protect_samples

    def training_rules(self, model: nn.Module) -> tuple[TrainingRule, ...]:
        """Rules for the training step, applied in order; without one the recipe alone decides."""
        return ()

    def accounted(self, *, steps: int, sample_rate: float) -> "Defense":
        """The same defense, its claim counted for a run of so many updates; by default it does not depend on them.

        Args:
            steps: Number of updates.
            sample_rate: Probability with which an image takes part in each of them, in (0, 1].
        """
        return self

    def protect_gradients(self, gradients: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Changes the update before it is sent (clip, noise, prune, quantise)."""
        return gradients

    def attacker_view(self, model: nn.Module, observation: Observation) -> AttackerView:
        """The forward pass that an attacker of `observation.threat_model.adversary` would simulate.

        It may use whatever the observation holds, and `observation.disclosed` where the adversary is an oracle.
        """
        return AttackerView()

    def is_simulated(self) -> bool:
        """Whether an attacker who knows of the defense simulates something else than one who does not."""
        return type(self).attacker_view is not Defense.attacker_view

    @abstractmethod
    def claim(self) -> str:
        """What the defense promises and under which assumption, in one sentence; epsilon only where it is valid."""
