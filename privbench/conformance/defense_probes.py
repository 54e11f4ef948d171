"""What the rules for defenses ask of one: inputs by a seed, gradients simulated and sent, and how far they are apart."""

import torch
from torch import Tensor

from privbench.adversary import simulate
from privbench.conformance.harness import Update, client_update
from privbench.conformance.rules import NotApplicableError
from privbench.core import Defense, ModelInput, Observation, ProtectedInput, build_defense, resolve_defense
from privbench.models import Victim

__all__ = [
    "EXPLAINED",
    "built",
    "draws_on_gradients",
    "must_simulate_exactly",
    "prepared",
    "protects_gradients",
    "relative_error",
    "same_inputs",
]

EXPLAINED = 1e-5
"""The largest relative error of a gradient that is simulated exactly."""


def built(spec: str) -> Defense:
    """A defense by its specification."""
    return build_defense(resolve_defense(spec))


def prepared(defense: Defense, victim: Victim, images: Tensor, seed: int) -> ProtectedInput:
    """What a client feeds, by the draw of a seed."""
    return defense.prepare_batch(victim, ModelInput(images), torch.Generator().manual_seed(seed))


def same_inputs(first: ProtectedInput, second: ProtectedInput) -> bool:
    """Whether images, choices and noise of two inputs are equal."""
    pairs = [(first.choices, second.choices), (first.model_input.layer_noise, second.model_input.layer_noise)]
    return torch.equal(first.model_input.images, second.model_input.images) and all(
        one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one) for one, other in pairs
    )


def relative_error(ours: dict[str, Tensor], observation: Observation) -> float:
    """The distance of a simulated gradient from the observed one, relative to that one's norm."""
    difference = torch.stack([(ours[name] - value).norm() for name, value in observation.gradients.items()])
    observed = torch.stack([value.norm() for value in observation.gradients.values()])
    return float(difference.norm() / observed.norm())


def protects_gradients(defense: Defense) -> bool:
    """Whether it acts on gradients, of samples or of the batch."""
    return defense.uses_per_sample_gradients() or type(defense).protect_gradients is not Defense.protect_gradients


def draws_on_gradients(spec: str) -> bool:
    """Whether the same batch is sent differently from draw to draw, though the model is fed the same."""
    if not protects_gradients(built(spec)):
        return False
    one, other = (client_update(spec, seed=seed).observation.gradients for seed in (1, 2))
    return any(not torch.equal(one[name], other[name]) for name in one)


def must_simulate_exactly(spec: str, update: Update) -> None:
    """Raises `NotApplicableError` where no adversary can compute what was sent from the images alone."""
    if draws_on_gradients(spec):
        raise NotApplicableError("it sends noise or random rounding, of which only the expectation can be simulated")
    if simulate(update.observation).view.expected(["network.pos_embed"]):
        raise NotApplicableError("adversaries estimate the gradient behind what it sends")
    if update.defense.uses_per_sample_gradients() and update.observation.batch_size > 1:
        raise NotApplicableError("it works on single samples, and only the batch's gradient is simulated")
