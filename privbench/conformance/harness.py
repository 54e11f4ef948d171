"""Small client updates on random weights, by which rules are checked and tests are made."""

from dataclasses import dataclass

import torch
from torch import Tensor

from privbench.adversary import simulate
from privbench.client import observe
from privbench.core import (
    AttackerView,
    Component,
    Defense,
    Observation,
    Secret,
    ThreatModel,
    VictimSpec,
    build_defense,
    resolve_defense,
)
from privbench.models import DEFAULT_MODEL, Victim, default_spec, load_victim

__all__ = ["Update", "client_update", "round_trip", "simulated_gradients", "some_images"]


@dataclass(frozen=True)
class Update:
    """One client update and what it was made of."""

    victim: Victim
    defense: Defense
    observation: Observation
    secret: Secret

    def view(self) -> AttackerView:
        """What the adversary makes of the observation."""
        return self.defense.view(self.victim, self.observation)


def some_images(batch: int = 1, *, seed: int = 5) -> Tensor:
    """`[batch, 3, 32, 32]` in [0, 1], no two patches alike."""
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def client_update(
    defense: str = "none", *, batch: int = 1, seed: int = 11, images: Tensor | None = None, **threat: str
) -> Update:
    """A client of the embedded architecture with random weights under a defense; labels are 3, 4, ...

    Args:
        defense: As on the command line.
        batch: Number of images; more where the defense needs more.
        seed: Of the client's own random choices.
        images: The private images; None for those of `some_images`.
        **threat: Fields of the threat model.
    """
    specs = resolve_defense(defense)
    built = build_defense(specs)
    model = default_spec(DEFAULT_MODEL)
    images = some_images(max(batch, built.smallest_batch())) if images is None else images
    victim = load_victim(VictimSpec(model=model, weights="random"), built, generator=torch.Generator().manual_seed(2))
    observation, secret = observe(
        victim,
        model,
        built,
        images,
        torch.arange(3, 3 + len(images)),
        declared=specs,
        threat_model=ThreatModel.model_validate(threat),
        generator=torch.Generator().manual_seed(seed),
    )
    return Update(victim, built, observation, secret)


def simulated_gradients(observation: Observation, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """What this adversary's simulated client sends for given images."""
    simulation = simulate(observation)

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return simulation.loss(images, labels, parameters=parameters)

    gradients: dict[str, Tensor] = torch.func.grad(loss)(dict(simulation.model.named_parameters()))
    view = simulation.view
    return (
        gradients if view.transform_gradient is None else view.transform_gradient(gradients, observation.gradients, view.known)
    )


def round_trip(component: Component) -> Component:
    """The component built again from the text of its parameters, as a command line would."""
    return type(component).configured({key: str(value) for key, value in component.parameters().items()})
