"""Matching for clients that train: through the unrolled steps, or at a surrogate point between the two sets of weights.

Unrolled: Dimitrov et al. (TMLR 2022, arXiv 2206.12395); with several mini-batches every epoch has candidates of its own, tied
by a prior that does not depend on their order. Surrogate: SME (Zhu et al.), the gradient at `w0 + a (wT - w0)` is compared with
the whole update, so that a step costs what it costs for one gradient. Ours: the distances of `gradvit`, and that both ways are
tried and the one is returned that explains more of the update.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from privbench.adversary import (
    Simulation,
    Start,
    believed_gradients,
    mean_cross_entropy,
    postprocess_reconstruction,
    simulate,
    start_images,
)
from privbench.core import Attack, LocalTraining, Observation, Progress, Reconstruction, UserError
from privbench.inversion import (
    Adam,
    Constant,
    Cosine,
    Decay,
    ImagePrior,
    Inversion,
    LayerCosine,
    MatchingTerm,
    Outcome,
    Pixels,
    PriorTerm,
    RowCosine,
    Target,
    TotalVariation,
)
from privbench.label_recovery import LabelRule, recover_labels
from privbench.replay import explained_share, unrolled

__all__ = ["LocalSteps"]

Point = Literal["unrolled", "surrogate"]


class LocalSteps(Attack):
    """Matching of a weight delta, unrolled or at a surrogate point."""

    name: ClassVar[str] = "local-steps"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"quick": {}, "standard": {"steps": 3000}}

    point: Point | Literal["best"] = "best"
    """Where the client is simulated: through all its steps, at one point between the weights, or both and the better one."""
    surrogate: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Place of the surrogate point: 0 the weights before training, 1 those after."""
    unrolled_steps: Annotated[int, Field(ge=1)] = 20
    """Up to so many local steps `best` tries the unrolled way; each costs as much as one gradient, in time and memory."""
    steps: Annotated[int, Field(gt=0)] = 600
    """Optimisation steps."""
    epoch_prior: Annotated[float, Field(ge=0)] = 1.0
    """Weight of what differs between the epochs' candidates whatever their order is; for several mini-batches."""
    position_matching: Annotated[float, Field(ge=0)] = 0.3
    """Weight of the mean cosine distance of the position rows; where they are observed."""
    total_variation: Annotated[float, Field(ge=0)] = 0.8
    """Weight of total variation at the start."""
    total_variation_end: Annotated[float, Field(ge=0)] = 0.06
    """Weight of total variation at the end."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.03
    """Adam's learning rate, pixels in [0, 1]."""
    start: Start = "grey"
    """Start images."""
    label_recovery: LabelRule = "last-layer"
    """How unknown labels are recovered."""

    def require(self, observation: Observation) -> None:
        """Refuses the unrolled way where the steps are not known."""
        if self.point == "unrolled" and observation.training is None:
            raise UserError(
                "attack local-steps cannot unroll steps that it is not told (a gradient, or --training hidden); "
                "choose point=surrogate"
            )

    def run(self, observation: Observation, *, generator: torch.Generator, progress: Progress) -> Reconstruction:
        """Matches by one way or both; of a gradient there is one, the ordinary."""
        simulation = simulate(observation)
        labels, flags = observation.labels, list[str]()
        if labels is None:
            labels = recover_labels(observation, simulation.model.classifier_names()[0], self.label_recovery)
            flags.append("labels-recovered")
        best: Reconstruction | None = None
        points = self._points(observation.training)
        states = dict(progress.restore() or {})
        for number, point in enumerate(points):
            part = _PointProgress(progress, states, point, number, len(points))
            outcome = self._matched(observation, simulation, labels, point, generator, part)
            share = explained_share(observation, simulation, outcome.images, labels)
            if best is None or share > best.losses["explained"]:
                losses = {**outcome.losses, "explained": share}
                said = (f"matched-{point}",) if observation.kind == "delta" else ()
                best = Reconstruction(outcome.images, labels, losses, steps=self.steps, flags=(*flags, *said))
        return postprocess_reconstruction(cast(Reconstruction, best), simulation, generator=generator)

    def _points(self, training: LocalTraining | None) -> list[Point]:
        if self.point != "best":
            return [self.point]
        return ["unrolled", "surrogate"] if training is not None and training.steps <= self.unrolled_steps else ["surrogate"]

    def _matched(
        self,
        observation: Observation,
        simulation: Simulation,
        labels: Tensor,
        point: Point,
        generator: torch.Generator,
        progress: Progress,
    ) -> Outcome:
        training, epochs = observation.training, 1
        if point == "unrolled" and training is not None:
            simulator, epochs = unrolled(simulation, training), training.epochs if training.batches > 1 else 1
        else:
            simulation = simulate(_between(observation, self.surrogate))
            simulator = mean_cross_entropy(simulation)
        every = dict(simulation.model.named_parameters())
        inversion = Inversion(
            simulate=simulator,
            parameters={name: every[name] for name in observation.update},
            matching=self._matching(simulation, observation),
            priors=self._priors(epochs),
            steps=self.steps,
            parametrisation=Pixels(Adam(Cosine(self.learning_rate, 0.2), second_moment=0.99)),
            send=simulation.view.transform_gradient,
        )
        start = torch.cat([start_images(self.start, 1, observation, generator) for _ in range(epochs)], dim=1)
        observed = believed_gradients(simulation.view, observation, observation.update)
        outcome = inversion.solve(Target(observed, start, {**simulation.view.known, "labels": labels}), progress)
        return replace(outcome, images=_one_of_epochs(outcome.images, epochs))

    def _matching(self, simulation: Simulation, observation: Observation) -> list[MatchingTerm]:
        terms = [MatchingTerm("gradient", Constant(1.0), LayerCosine())]
        parts = simulation.model.parts() if simulation.model.patch_size else None
        if parts is not None and parts.position is not None and parts.position in observation.update:
            rows = parts.prefix_tokens + simulation.model.patch_count
            terms.append(MatchingTerm("position", Constant(self.position_matching), RowCosine(parts.position, rows)))
        return terms

    def _priors(self, epochs: int) -> list[PriorTerm]:
        terms = [PriorTerm("variation", Decay(self.total_variation, self.total_variation_end), TotalVariation())]
        if epochs > 1:
            terms.append(PriorTerm("epochs", Constant(self.epoch_prior), SameInEveryEpoch(epochs)))
        return terms


class _PointProgress(Progress):
    """Progress of one of several ways: steps are counted through, and the states of all are kept together.

    Args:
        whole: Of the attack.
        states: Of every way that was begun, by point; that of a finished one ends it at once.
        point: This way.
        number: How many come before it.
        count: How many there are.
    """

    def __init__(self, whole: Progress, states: dict[str, Any], point: Point, number: int, count: int) -> None:
        self._whole, self._states, self._point, self._number, self._count = whole, states, point, number, count

    def report(self, step: int, total: int, phase: str, *losses: Mapping[str, float]) -> None:
        """Counts on from the ways before."""
        self._whole.report(self._number * total + step, self._count * total, f"{self._point}, {phase}", *losses)

    def picture(self, step: int, *images: Tensor) -> None:
        """Hands a guess on."""
        self._whole.picture(step, *images)

    def note(self, message: str) -> None:
        """Hands a note on."""
        self._whole.note(message)

    def save(self, state: Mapping[str, Any]) -> None:
        """Keeps this way's state beside those of the others."""
        self._states[self._point] = dict(state)
        self._whole.save(self._states)

    def restore(self) -> Mapping[str, Any] | None:
        """The state of this way."""
        found: Mapping[str, Any] | None = self._states.get(self._point)
        return found


@dataclass(frozen=True)
class SameInEveryEpoch(ImagePrior):
    """Epochs see the same images in another order: pooled over a batch, their pixels agree (order-invariant prior, 2206.12395).

    Attributes:
        epochs: Over which the candidates are spread: `[trials, epochs * batch, 3, height, width]`.
    """

    epochs: int

    def __call__(self, images: Tensor) -> Tensor:
        """Mean squared difference of the epochs' pooled pixels, mean and maximum, from their mean over epochs."""
        apart = images.reshape(len(images), self.epochs, -1, *images.shape[2:])
        pooled = torch.stack([apart.mean(2), apart.amax(2)])
        return (pooled - pooled.mean(2, keepdim=True)).square().flatten(2).mean(2).sum(0)


def _between(observation: Observation, share: float) -> Observation:
    """The same with the weights at a point between those before and after; of a gradient, as it is."""
    if observation.kind != "delta":
        return observation
    state = dict(observation.model_state)
    for name, value in observation.update.items():
        state[name] = state[name] + share * value.to(state[name])
    return replace(observation, model_state=state)


def _one_of_epochs(images: Tensor, epochs: int) -> Tensor:
    """`[epochs * batch, ...]` to `[batch, ...]`: the mean of each image's candidates, matched to those of the first epoch."""
    first, *others = images.chunk(epochs)
    total: Tensor = first.clone()
    for other in others:
        distances = torch.cdist(first.flatten(1), other.flatten(1))
        order = linear_sum_assignment(distances.cpu().numpy())[1]
        total += other[torch.as_tensor(order, device=images.device)]
    return total / epochs
