"""The attacker's copy of the client, rebuilt from an observation alone: the mirror of `client`.

Attacks that simulate the forward pass start here; what the simulation applies depends on the adversary of the threat model.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from privbench.core import AttackerView, Defense, ModelInput, Observation, build_defense, resolve_defense
from privbench.models import Victim, build_model

__all__ = ["Simulation", "simulate"]


@dataclass(frozen=True)
class Simulation:
    """A differentiable stand-in for the client.

    Attributes:
        model: The server's model with the client's weights, in the client's mode, on the observation's device.
        view: What the adversary believes happens between image and model.
    """

    model: Victim
    view: AttackerView

    def logits(self, images: Tensor) -> Tensor:
        """What the simulated client's model says to candidate images `[batch, 3, height, width]` in [0, 1]."""
        fed = self.view.feed(ModelInput(images))
        logits: Tensor = self.model(fed.images, fed.unknown_positions)
        return logits


def simulate(observation: Observation) -> Simulation:
    """Rebuilds model, weights and forward pass from an observation.

    The architecture, changes by the defense included, is the server's own and known to every adversary.

    Raises:
        UserError: The declared model or defense is not known here, or the state does not fit.
    """
    defense: Defense = build_defense(resolve_defense(observation.defense))
    with torch.random.fork_rng(devices=[]):
        model = build_model(observation.model)
    defense.prepare_model(model)
    model.load_state_dict(dict(observation.model_state))
    model.to(observation.device).train(observation.threat_model.model_mode == "train")
    return Simulation(model, defense.attacker_view(model, observation))
