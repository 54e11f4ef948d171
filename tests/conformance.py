"""What the conformance tests share: small client updates on random weights, and a walk over everything an object leads to."""

import gc
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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

__all__ = ["Update", "client_update", "holds_image", "reachable", "round_trip", "simulated_gradients", "some_images"]


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


def reachable(root: object) -> list[object]:
    """Every object that attributes, containers, bound methods, closures and autograd graphs lead to.

    Classes and modules end the walk, and so do a function's globals: through them everything leads to everything.
    """
    seen: dict[int, object] = {}
    pending = [root]
    while pending:
        item = pending.pop()
        if id(item) in seen or isinstance(item, type | types.ModuleType):
            continue
        seen[id(item)] = item
        pending.extend(_behind(item))
    return list(seen.values())


def _behind(item: object) -> Iterable[object]:
    if isinstance(item, types.FunctionType):
        return [cell.cell_contents for cell in item.__closure__ or ()] + [item.__defaults__, item.__kwdefaults__, item.__dict__]
    if isinstance(item, Tensor):
        # Held in C++, where the garbage collector does not look.
        held = [item.grad_fn, item.grad if item.is_leaf else None, item._base]
        return [*gc.get_referents(item), *(thing for thing in held if thing is not None)]
    if isinstance(item, torch.autograd.graph.Node):
        saved = [getattr(item, name, None) for name in dir(item) if name.startswith("_saved_")]
        return [*(node for node, _ in item.next_functions), getattr(item, "variable", None), *saved]
    return gc.get_referents(item)


def holds_image(found: Iterable[object] | Mapping[str, Tensor], secret: Secret) -> bool:
    """True where the secret itself, a private image, or its memory is among the objects.

    A tensor holds an image if its elements contain all of the image's in order, whatever its shape, or up to a linear map.
    """
    things = list(found.values() if isinstance(found, Mapping) else found)
    if any(isinstance(thing, Secret) for thing in things):
        return True
    private = [image for batch in (secret.images, secret.fed) for image in batch]
    memory = {batch.untyped_storage().data_ptr() for batch in (secret.images, secret.fed)}
    tensors = [thing for thing in things if isinstance(thing, Tensor) and thing.numel()]
    return any(tensor.untyped_storage().data_ptr() in memory or _resembles(tensor, private) for tensor in tensors)


def _resembles(tensor: Tensor, private: list[Tensor]) -> bool:
    size = private[0].numel()
    if tensor.numel() % size:
        return False
    rows = _standardised(tensor.detach().reshape(-1, size).double())
    images = _standardised(torch.stack(private).reshape(-1, size).double())
    return bool((rows @ images.T).abs().max() > 0.95)


def _standardised(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(1, keepdim=True)
    return nn.functional.normalize(centred, dim=1)
