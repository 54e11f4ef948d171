"""The contract of a defense: hooks with no-op defaults, so that one file says one idea."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from privbench.core.attacker_view import AttackerView
from privbench.core.choices import ChoiceRole, InferredChoices, choices_by_role
from privbench.core.component import Component
from privbench.core.errors import UserError
from privbench.core.model_input import ModelInput
from privbench.core.observation import Observation
from privbench.core.threat_model import ADVERSARIES

__all__ = ["Defense", "Effect", "ProtectedInput", "TrainingRule"]

Effect = Literal["batch-gradient", "noise-of-given-size", "mixed-samples"]
"""What a defense does that another may not stand (`Defense.not_after`).

`batch-gradient`: it takes the gradient of the whole batch, so that no sample's own gradient is left; every defense with a
`protect_gradients` of its own does. `noise-of-given-size`: it promises the size of its noise in what is sent. `mixed-samples`:
what one sample gives depends on the others (one is made of several, or one mask is chosen for all), before any gradient is
computed and so wherever it is written.
"""


@dataclass(frozen=True)
class ProtectedInput:
    """The client's batch after a defense: what the model is fed, and the random choices behind it (secret).

    Attributes:
        model_input: What the model is fed.
        choices: By name, `defense.choice`; which of them are scored is declared (`Defense.scored`).
    """

    model_input: ModelInput
    choices: Mapping[str, Tensor] = field(default_factory=dict)


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
    scored: ClassVar[tuple[tuple[str, ChoiceRole], ...]] = ()
    """Names of the choices that are a mask or an order, and which: what an attack infers of them is scored."""

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

    def deployed_input(self, model: nn.Module, batch: ModelInput, generator: torch.Generator) -> ModelInput:
        """What the deployed model is fed at inference; by default the batch itself.

        A defense overrides it whose layers draw at inference too: what its victim can do is measured with them on. It may add
        `layer_noise` and leaves the images alone.
        """
        return batch

    def draws_at_inference(self) -> bool:
        """Whether the deployed model is random."""
        return type(self).deployed_input is not Defense.deployed_input

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

    def uses_per_sample_gradients(self) -> bool:
        """Whether it works on the gradients of single samples."""
        return type(self).protect_samples is not Defense.protect_samples

    def training_rules(self, model: nn.Module) -> tuple[TrainingRule, ...]:
        """Rules for the training step, applied in order; without one the recipe alone decides."""
        return ()

    def accounted(self, *, steps: int, sample_rate: float) -> "Defense":
        """The same defense, its guarantee counted for a run of so many updates; by default it does not depend on them.

        Args:
            steps: Number of updates.
            sample_rate: Probability with which an image takes part in each of them, in (0, 1].
        """
        return self

    def protect_gradients(self, gradients: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Changes the update before it is sent (clip, noise, prune, quantise)."""
        return gradients

    def scored_choices(self, choices: Mapping[str, Tensor]) -> InferredChoices:
        """Those of a client's choices that are scored when an attack infers them.

        Args:
            choices: By name, as in `ProtectedInput`.
        """
        return choices_by_role(choices, self.scored)

    def unaware(self, model: nn.Module, observation: Observation) -> AttackerView:
        """What an adversary simulates who does not know of the defense: the plain pass, but for the public architecture."""
        return AttackerView()

    def aware(self, model: nn.Module, observation: Observation) -> AttackerView:
        """What an adversary simulates who knows the defense and its parameters, and infers what it can of the random choices.

        It may use whatever the observation holds. By default it has no better than the unaware's.
        """
        return self.unaware(model, observation)

    def oracle(self, model: nn.Module, observation: Observation) -> AttackerView:
        """What an adversary simulates who is also told the choices: `observation.disclosed`. By default there are none to tell.

        Raises:
            UserError: The client changes its input, and the defense does not say how an oracle simulates that.
        """
        if type(self).prepare_batch is not Defense.prepare_batch and not self.is_simulated():
            raise UserError(
                f"defense {self.name} changes the client's input and simulates it for no adversary; override its method oracle "
                "(and aware, where something can be inferred)"
            )
        return self.aware(model, observation)

    def view(self, model: nn.Module, observation: Observation) -> AttackerView:
        """What the adversary of `observation.threat_model` simulates; final.

        Args:
            model: The attacker's copy of the client's model.
            observation: What it saw.
        """
        adversary: Callable[[nn.Module, Observation], AttackerView] = getattr(self, observation.threat_model.adversary)
        return adversary(model, observation)

    def is_simulated(self) -> bool:
        """Whether an attacker who knows of the defense simulates something else than one who does not."""
        return any(getattr(type(self), name) is not getattr(Defense, name) for name in ADVERSARIES)

    @abstractmethod
    def guarantee(self) -> str:
        """What the defense promises and under which assumption, in one sentence; epsilon only where it is valid."""
