"""What every defense keeps to beside another one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import nn

from privbench.conformance.defense_probes import EXPLAINED, built, must_simulate_exactly, prepared, relative_error
from privbench.conformance.harness import client_update, simulated_gradients, some_images
from privbench.conformance.rules import Rule, keep, raises
from privbench.core import DEFENSES, AttackerView, Defense, ModelInput, Observation, ProtectedInput

__all__ = ["COMPOSITION_RULES"]


class Ramp(Defense):
    """Darkens from left to right: deterministic, and it does not commute with anything that moves pixels."""

    name: ClassVar[str] = "check-ramp"

    @staticmethod
    def darken(batch: ModelInput) -> ModelInput:
        """A batch, darkened."""
        return ModelInput(batch.images * torch.linspace(1, 0.5, batch.images.shape[-1]), batch.unknown_positions)

    def prepare_batch(self, model: nn.Module, batch: ModelInput, generator: torch.Generator) -> ProtectedInput:
        """Draws nothing."""
        return ProtectedInput(self.darken(batch))

    def unaware(self, model: nn.Module, observation: Observation) -> AttackerView:
        """Known to every adversary."""
        return AttackerView(lambda given, _: self.darken(given))

    def guarantee(self) -> str:
        """Nothing."""
        return "Promises nothing."


@contextmanager
def _ramp() -> Iterator[Defense]:
    """A second defense to compose with, registered as long as it is needed."""
    DEFENSES.register(Ramp.name, Ramp)
    try:
        yield Ramp()
    finally:
        DEFENSES.unregister(Ramp.name)


def _composition(spec: str) -> None:
    images = some_images(max(2, built(spec).smallest_batch()))
    with _ramp() as ramp:
        for first in (True, False):
            composed, update = built(f"{spec}+{Ramp.name}" if first else f"{Ramp.name}+{spec}"), client_update(spec)
            both = prepared(composed, update.victim, images, seed=4)
            given = images if first else Ramp.darken(ModelInput(images)).images
            alone = prepared(update.defense, update.victim, given, seed=4)
            expected = Ramp.darken(alone.model_input) if first else alone.model_input
            keep(torch.equal(both.model_input.images, expected.images), "composed it does not act in the order written")
            keep(both.choices.keys() == alone.choices.keys(), "composed its choices have other names")
            keep(composed.trained_as() == update.defense.trained_as(), "composed it runs on another victim")
            keep(all(part.guarantee() in composed.guarantee() for part in (update.defense, ramp)), "a guarantee is lost")


def _oracle_of_composition(spec: str) -> None:
    with _ramp():
        for text in (f"{spec}+{Ramp.name}", f"{Ramp.name}+{spec}"):
            update = client_update(text, adversary="oracle")
            must_simulate_exactly(spec, update)
            ours = simulated_gradients(update.observation, update.secret.images, update.secret.labels)
            error = relative_error(ours, update.observation)
            keep(error < EXPLAINED, f"{text}: the oracle's gradient differs by {error:.1e} from the observed one")


def _not_with_itself(spec: str) -> None:
    raises(Exception, lambda: built(f"{spec}+{spec}"), "it can be composed with itself")


COMPOSITION_RULES = (
    Rule("composes in the order written", _composition),
    Rule("lets the oracle see through a composition", _oracle_of_composition),
    Rule("is not composed with itself", _not_with_itself),
)
"""In the order in which they are checked."""
