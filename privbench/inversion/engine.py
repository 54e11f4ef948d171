"""The engine: minimises a weighted sum of gradient distances and image priors over candidate images, several trials at once.

An attack is a declaration (terms with schedules, an optimiser, a start, moves); the engine runs it, skips every term whose
weight is 0, reports, checkpoints, and picks the trial whose gradient fits best. It sees no truth.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from privbench.core import Progress
from privbench.inversion.matching import GradientDistance
from privbench.inversion.priors import ImagePrior
from privbench.inversion.relocation import relocation_order
from privbench.inversion.schedule import Schedule

__all__ = ["Inversion", "MatchingTerm", "Outcome", "PriorTerm", "Relocation", "Simulator", "candidate_gradients"]

_REPORT_EVERY = 10

Simulator = Callable[[Tensor], Tensor]
"""Candidate images `[batch, 3, height, width]` in [0, 1] to the loss that the simulated client would compute, a scalar."""


@dataclass(frozen=True)
class MatchingTerm:
    """A gradient distance with its weight over time."""

    name: str
    weight: Schedule
    distance: GradientDistance


@dataclass(frozen=True)
class PriorTerm:
    """An image prior with its weight over time."""

    name: str
    weight: Schedule
    prior: ImagePrior


class Rearrange(Protocol):
    """Moves patches of images `[batch, 3, height, width]`: position `j` takes the patch at `order[j]`."""

    def __call__(self, images: Tensor, order: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Relocation:
    """When and how patches are moved to the places that the position gradient gives them.

    Attributes:
        steps: Before which steps to move.
        table: Name of the position table `[1, rows, width]`.
        first_row: The table's row of the first patch.
        patches: Number of patches.
        rearrange: Moves the patches.
    """

    steps: frozenset[int]
    table: str
    first_row: int
    patches: int
    rearrange: Rearrange

    def rows(self, table: Tensor) -> Tensor:
        """The patches' rows `[patches, width]` of a gradient of the table."""
        return table.reshape(-1, table.shape[-1])[self.first_row : self.first_row + self.patches]


@dataclass(frozen=True)
class Outcome:
    """What the engine found.

    Attributes:
        images: `[batch, 3, height, width]` in [0, 1], of the trial with the smallest matching loss at the end.
        losses: Final value of every term of that trial, by name, unweighted, and `matching`, the weighted sum that selects.
        trial: Which trial it is.
    """

    images: Tensor
    losses: dict[str, float]
    trial: int


def candidate_gradients(simulate: Simulator, parameters: Mapping[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    """Parameter gradients of the simulated client, differentiable in the images.

    Args:
        simulate: The simulated client's loss.
        parameters: Parameter name to tensor, requiring gradients.
        images: `[trials, batch, 3, height, width]`.

    Returns:
        Parameter name to `[trials, *shape]`.
    """
    per_trial = [
        torch.autograd.grad(
            simulate(trial), list(parameters.values()), create_graph=True, allow_unused=True, materialize_grads=True
        )
        for trial in images
    ]
    return {name: torch.stack(values) for name, values in zip(parameters, zip(*per_trial, strict=True), strict=True)}


@dataclass
class _State:
    """What changes from step to step, and all that a checkpoint needs."""

    images: Tensor
    optimizer: torch.optim.Optimizer
    step: int = 0
    losses: dict[str, Tensor] = field(default_factory=dict)

    def export(self) -> dict[str, Any]:
        return {"step": self.step, "images": self.images.detach().clone(), "optimizer": self.optimizer.state_dict()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        self.step = int(saved["step"])
        with torch.no_grad():
            self.images.copy_(saved["images"])
        self.optimizer.load_state_dict(dict(saved["optimizer"]))


@dataclass(frozen=True)
class Inversion:
    """One optimisation problem.

    Attributes:
        simulate: The simulated client's loss.
        parameters: The simulated model's parameters by name.
        observed: The observed gradients by name, the same names.
        matching: Gradient distances; all weights 0 is a control run that never computes a gradient.
        priors: Image priors.
        steps: Optimisation steps.
        learning_rate: Adam's learning rate over time.
        second_moment: Adam's second decay rate.
        relocation: Moves of patches, None for none.
        phase: The name of the schedule's phase at a progress in [0, 1), for display and trace.
    """

    simulate: Simulator
    parameters: Mapping[str, Tensor]
    observed: Mapping[str, Tensor]
    matching: Sequence[MatchingTerm]
    priors: Sequence[PriorTerm]
    steps: int
    learning_rate: Schedule
    second_moment: float = 0.999
    relocation: Relocation | None = None
    phase: Callable[[float], str] = lambda _: "matching"

    def run(self, start: Tensor, progress: Progress) -> Outcome:
        """Minimises from a start.

        Args:
            start: `[trials, batch, 3, height, width]` in [0, 1].
            progress: Gets a report every few steps, and the chance to keep a checkpoint after each.

        Raises:
            FloatingPointError: The objective became non-finite.
        """
        images = start.detach().clone().requires_grad_(True)
        state = _State(images, self._optimizer(images))
        saved = progress.restore()
        if saved is not None:
            state.restore(saved)
        while state.step < self.steps:
            self._step(state)
            if state.step % _REPORT_EVERY == 0 or state.step == self.steps:
                self._report(state, progress)
                progress.save(state.export())
        return self._select(state)

    def _optimizer(self, images: Tensor) -> torch.optim.Adam:
        return torch.optim.Adam([images], lr=self.learning_rate.at(0.0), betas=(0.9, self.second_moment))

    def _step(self, state: _State) -> None:
        share = state.step / self.steps
        if self.relocation is not None and state.step in self.relocation.steps:
            self._relocate(state, self.relocation)
        for group in state.optimizer.param_groups:
            group["lr"] = self.learning_rate.at(share)
        state.losses = self._losses(state.images, share)
        if state.losses:
            total = self._weighted(state.losses, (*self.matching, *self.priors), share).sum()
            (state.images.grad,) = torch.autograd.grad(total, [state.images])
            state.optimizer.step()
            with torch.no_grad():
                state.images.clamp_(0, 1)
        state.step += 1

    def _losses(self, images: Tensor, share: float) -> dict[str, Tensor]:
        """The value `[trials]` of every term whose weight is not 0 now."""
        losses: dict[str, Tensor] = {}
        matching = [term for term in self.matching if term.weight.at(share) != 0]
        if matching:
            gradients = candidate_gradients(self.simulate, self.parameters, images)
            losses |= {term.name: term.distance(gradients, self.observed) for term in matching}
        losses |= {term.name: term.prior(images) for term in self.priors if term.weight.at(share) != 0}
        return losses

    def _weighted(self, losses: Mapping[str, Tensor], terms: Sequence[MatchingTerm | PriorTerm], share: float) -> Tensor:
        """The weighted sum `[trials]` of those losses that belong to the given terms."""
        present = [term.weight.at(share) * losses[term.name] for term in terms if term.name in losses]
        trials = len(next(iter(losses.values())))
        return torch.stack(present).sum(0) if present else torch.zeros(trials)

    def _relocate(self, state: _State, relocation: Relocation) -> None:
        """Moves the patches of every trial, and Adam's memory of their pixels with them."""
        tables = candidate_gradients(self.simulate, {relocation.table: self.parameters[relocation.table]}, state.images)
        observed = relocation.rows(self.observed[relocation.table])
        moments = [value for value in state.optimizer.state[state.images].values() if value.shape == state.images.shape]
        with torch.no_grad():
            for trial, table in enumerate(tables[relocation.table]):
                order = relocation_order(relocation.rows(table), observed).to(state.images.device)
                for tensor in (state.images, *moments):
                    tensor[trial] = relocation.rearrange(tensor[trial], order)

    def _report(self, state: _State, progress: Progress) -> None:
        share = (state.step - 1) / self.steps
        means = {name: float(value.detach().mean()) for name, value in state.losses.items()}
        broken = [name for name, value in means.items() if value != value or abs(value) == float("inf")]
        if broken:
            raise FloatingPointError(f"the loss '{broken[0]}' became non-finite at step {state.step}; lower the learning rate")
        progress.report(state.step, self.steps, self.phase(share), means)

    def _select(self, state: _State) -> Outcome:
        """The trial with the smallest weighted matching loss at the final images: never the total, never the truth."""
        last = (self.steps - 1) / self.steps
        losses = {name: value.detach() for name, value in self._losses(state.images, last).items()}
        matching = self._weighted(losses, self.matching, last)
        trial = int(matching.argmin())
        final = {name: float(value[trial]) for name, value in losses.items()} | {"matching": float(matching[trial])}
        return Outcome(state.images[trial].detach().clone(), final, trial)
