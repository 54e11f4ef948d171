"""The client rebuilt from an observation: model, weights and forward pass, as the adversary of the threat model knows them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from privbench.core import (
    AttackerView,
    Defense,
    ModelInput,
    Observation,
    build_defense,
    build_server,
    resolve_defense,
)
from privbench.core.flags import LOWER_BOUND
from privbench.inversion import Simulator
from privbench.local_updates import training_view
from privbench.models import Victim, build_model, client_loss, forward
from privbench.models.patch_products import use_products
from privbench.models.svd_layers import DecorrelatedBatchNorm
from privbench.undo import Undone, undone, undone_in_any_order

__all__ = ["Simulation", "believed_gradients", "mean_cross_entropy", "observed_residual", "residual_loss", "simulate"]


@dataclass(frozen=True)
class Simulation:
    """A differentiable stand-in for the client.

    Attributes:
        model: The server's model with the client's weights, in the client's mode, on the observation's device.
        view: What the adversary believes happens between image and model.
    """

    model: Victim
    view: AttackerView

    def logits(
        self, images: Tensor, known: Mapping[str, Tensor] | None = None, parameters: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """What the simulated client's model says to candidates.

        Args:
            images: `[batch, 3, height, width]` in [0, 1].
            known: Stands in for `view.known`, where several clients are simulated at once.
            parameters: Stand in for the model's own, by name.

        Returns:
            `[batch, classes]`.
        """
        return self.forward(images, known, parameters)[0]

    def forward(
        self, images: Tensor, known: Mapping[str, Tensor] | None = None, parameters: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The logits, and what the network's layers add to the loss, as `models.forward` has them; arguments of `logits`."""
        return forward(self.model, self._fed(images, known), parameters)

    def loss(
        self,
        images: Tensor,
        labels: Tensor,
        known: Mapping[str, Tensor] | None = None,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """The simulated client's loss of candidates, a scalar.

        Args:
            images: `[batch, 3, height, width]` in [0, 1].
            labels: `[batch]` int64, or `[batch, classes]` probabilities, of the private images.
            known: As in `logits`.
            parameters: As in `logits`.
        """
        return client_loss(self.model, self._fed(images, known), labels, parameters)

    def undone(self, fed: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """From what the client's model was fed back to the client's images, and the remarks on that (`undo.undone`).

        Args:
            fed: `[batch, 3, height, width]`.
        """
        return _with_remarks(undone(self.view, fed))

    def undone_in_any_order(self, fed: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """The same of images that an attack recovered in no order (`undo.undone_in_any_order`)."""
        return _with_remarks(undone_in_any_order(self.view, fed))

    def _fed(self, images: Tensor, known: Mapping[str, Tensor] | None) -> ModelInput:
        return self.view.fed(ModelInput(images), known)


def _with_remarks(found: Undone) -> tuple[Tensor, tuple[str, ...]]:
    return found.images, () if found.complete else (LOWER_BOUND,)


def simulate(observation: Observation) -> Simulation:
    """Rebuilds model, weights and forward pass from an observation.

    The architecture, changes by the defense included, is the server's own and known to every adversary.

    Raises:
        UserError: The declared model or defense is not known here, or the state does not fit.
    """
    defense: Defense = build_defense(observation.defense or resolve_defense("none"))
    with torch.random.fork_rng(devices=[]):
        model = build_model(observation.model)
    defense.prepare_model(model)
    server = build_server(observation.server)
    if server is not None:
        server.prepare_model(model)
    model.to(observation.device).load_state_dict(dict(observation.model_state))
    if observation.normalisation is not None:
        model.normalise_by(observation.normalisation)
    use_products(model)
    model.requires_grad_(False)
    model.train(observation.threat_model.model_mode == "train")
    if model.training:
        # Running statistics take no part in train mode, and updating them in place is no pure function.
        torch.func.replace_all_batch_norm_modules_(model)
        for module in model.modules():
            if isinstance(module, DecorrelatedBatchNorm):
                module.track_running_stats = False
    return Simulation(model, training_view(defense.view(model, observation), observation))


def mean_cross_entropy(simulation: Simulation) -> Simulator:
    """The client's loss as the engine takes it, with the labels in the context."""
    return lambda parameters, images, context: simulation.loss(images, context["labels"], context, parameters)


def residual_loss(simulation: Simulation) -> Simulator:
    """A loss that is linear in the logits and has the client's gradient at the client's images; `residual` in the context."""

    def loss(parameters: Mapping[str, Tensor], images: Tensor, context: Mapping[str, Tensor]) -> Tensor:
        logits, penalty = simulation.forward(images, context, parameters)
        linear = (logits * context["residual"]).sum()
        return linear if penalty is None else linear + penalty

    return loss


def observed_residual(simulation: Simulation, observation: Observation) -> Tensor | None:
    """The derivative of the loss by the logits, `[classes]`, which is the gradient of the classifier's bias.

    None where it is not known: of several images, not sent, or sent so that its entries are not to be trusted.
    """
    name = simulation.model.classifier_names()[1]
    known = observation.batch_size == 1 and simulation.view.entries_are_exact and name in observation.gradients
    return observation.gradients[name] if known else None


def believed_gradients(view: AttackerView, observation: Observation, names: Iterable[str]) -> dict[str, Tensor]:
    """What an adversary compares with: the observed gradients, or where the view has one its estimate of what is behind them.

    Args:
        view: What the adversary believes.
        observation: What it saw.
        names: Of which parameters.
    """
    names = list(names)
    return {name: observation.gradients[name] for name in names} | dict(view.expected(names))
