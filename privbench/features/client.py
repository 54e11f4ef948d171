"""The client that sends features, and the attacker's copy of it: the mirror of `client` and `adversary` for features."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from privbench.core import (
    AttackerView,
    ComponentSpec,
    Defense,
    FeatureObservation,
    ModelInput,
    ModelSpec,
    Secret,
    ThreatModel,
    UserError,
    build_defense,
    resolve_defense,
)
from privbench.models import Victim, build_model

__all__ = ["FeatureSimulation", "block_features", "observe_features", "simulate_features"]


class _Reached(Exception):  # noqa: N818 (no mistake: what lies behind the block need not be computed)
    """A forward pass came to the block that was asked for."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features


def block_features(victim: Victim, fed: ModelInput, block: int) -> Tensor:
    """What a block gives to the next one, `[batch, tokens, width]`, the mean over the draws of random layers.

    Args:
        victim: A vision transformer; its mode decides.
        fed: What it is fed.
        block: From 1; 0 for what the first block reads.

    Raises:
        UserError: There is no such block.
    """
    blocks = list(getattr(victim.network, "blocks", []))
    if not 0 <= block <= len(blocks) or not blocks:
        there = f"0 to {len(blocks)}" if blocks else "none, it has no blocks"
        raise UserError(f"block {block} of {type(victim.network).__name__}; accepted: {there}")

    def reached(features: Tensor) -> NoReturn:
        raise _Reached(features)

    target = cast(nn.Module, blocks[max(block, 1) - 1])
    if block:
        hook = target.register_forward_hook(lambda _module, _given, output: reached(output))
    else:
        hook = target.register_forward_pre_hook(lambda _module, given: reached(given[0]))
    try:
        victim(*fed.arguments)
    except _Reached as end:
        features = end.features
    finally:
        hook.remove()
    draws = len(features) // len(fed.images)
    return features.reshape(draws, len(fed.images), *features.shape[1:]).mean(0) if draws > 1 else features


def observe_features(
    victim: Victim,
    model: ModelSpec,
    defense: Defense,
    images: Tensor,
    *,
    block: int,
    declared: Sequence[ComponentSpec],
    threat_model: ThreatModel,
    generator: torch.Generator,
) -> tuple[FeatureObservation, Secret]:
    """Computes the features that a client sends.

    Args:
        victim: The client's model; its mode is left as found, features are those of eval mode.
        model: The architecture.
        defense: Applied to the batch; `prepare_model` has been applied to `victim` before.
        images: `[batch, 3, height, width]` in [0, 1].
        block: Behind which block, from 1; 0 for the embedded tokens.
        declared: The defense as the client declares it.
        threat_model: What the attacker may assume.
        generator: Source of the defense's random choices.

    Returns:
        The observation for the attacker and the secret for scoring; labels of the secret are 0.

    Raises:
        UserError: The model has no such block, or the batch is too small for the defense.
    """
    defense.require_batch(len(images))
    was_training = victim.training
    victim.eval()
    try:
        with torch.no_grad():
            protected = defense.prepare_batch(victim, ModelInput(images), generator)
            features = block_features(victim, protected.model_input, block)
    finally:
        victim.train(was_training)
    observation = FeatureObservation(
        features=features,
        block=block,
        model=model,
        model_state=victim.state_dict(),
        threat_model=threat_model,
        defense=tuple(declared),
        disclosed=threat_model.disclosed(protected.choices),
    )
    labels = torch.zeros(len(images), dtype=torch.int64)
    return observation, Secret(images, labels, protected.model_input.images, protected.choices)


@dataclass(frozen=True)
class FeatureSimulation:
    """A differentiable stand-in for the client.

    Attributes:
        model: The client's model in eval mode, on the observation's device.
        defense: The declared defense.
        view: What the adversary believes happens between image and model.
        observation: What it saw.
    """

    model: Victim
    defense: Defense
    view: AttackerView
    observation: FeatureObservation

    def features(self, images: Tensor) -> Tensor:
        """Of candidates `[batch, 3, height, width]`, as this adversary believes that the client computes them.

        Where it saw one image and is asked about several, each of them gets that image's draw.
        """
        fed = self.view.fed(ModelInput(images))
        draw = {name: noise.expand(-1, len(images), *noise.shape[2:]) for name, noise in fed.layer_noise.items()}
        return block_features(self.model, fed.with_noise(draw), self.observation.block)

    def drawn_features(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The same as the client itself would compute them of these images, with random choices of the attacker's own."""
        fed = self.defense.prepare_batch(self.model, ModelInput(images), generator).model_input
        return block_features(self.model, fed, self.observation.block)


def simulate_features(observation: FeatureObservation) -> FeatureSimulation:
    """Rebuilds model, weights and forward pass from an observation.

    Raises:
        UserError: The declared model or defense is not known here, the state does not fit, or the adversary needs an update.
    """
    defense = build_defense(observation.defense or resolve_defense("none"))
    with torch.random.fork_rng(devices=[]):
        model = build_model(observation.model)
    defense.prepare_model(model)
    model.load_state_dict(dict(observation.model_state))
    model.to(observation.device).requires_grad_(False).eval()
    # A view asks of an observation what features have too, or is refused (`FeatureObservation.gradients`).
    view = defense.view(model, cast(Any, observation))
    return FeatureSimulation(model, defense, view, observation)
