"""L-BFGS over the same objective as the engine's, driven from the host: DLG and iDLG.

Its iterations decide by values, so they are no pure step: one victim and one trial at a time. Besides the images it can
optimise other variables, such as label logits.
"""

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.func import grad

from privbench.core import Progress
from privbench.inversion.graph import record
from privbench.inversion.optimisers import LBFGS
from privbench.inversion.problem import Target
from privbench.inversion.step import Objective

__all__ = ["Minimum", "QuasiNewton"]

_Slope = Callable[..., tuple[Tensor, ...]]

_RECORD_FROM = 60
"""Evaluations from which recording pays."""


@dataclass(frozen=True)
class Minimum:
    """What was found for one victim.

    Attributes:
        images: `[batch, 3, height, width]`, not confined to [0, 1]: the best iterate of the best trial, by the objective.
        free: The optimised context of that trial, by name.
        losses: Every term there, by name, unweighted, and `matching`, the weighted sum of the gradient distances.
        trial: Which trial it is.
        diverged: How many trials ended in a non-finite value; their best iterate before it still counts.
    """

    images: Tensor
    free: dict[str, Tensor]
    losses: dict[str, float]
    trial: int
    diverged: int


@dataclass
class _State:
    """All that a checkpoint needs; `best` is one list of tensors per trial begun, in the order of the variables."""

    trial: int = 0
    step: int = 0
    variables: list[Tensor] = field(default_factory=list)
    best: list[list[Tensor]] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    diverged: int = 0
    optimiser: dict[str, Any] | None = None


@dataclass(frozen=True)
class QuasiNewton:
    """One optimisation problem for L-BFGS. Weights are those at the start; they do not change over time.

    Attributes:
        objective: The terms.
        parameters: The matched parameters of the simulated model by name.
        steps: Steps of each trial.
        optimiser: L-BFGS's own settings.
    """

    objective: Objective
    parameters: Mapping[str, Tensor]
    steps: int
    optimiser: LBFGS

    def solve(self, target: Target, free: Mapping[str, Tensor] | None = None, progress: Progress | None = None) -> Minimum:
        """Minimises for one target, trial by trial.

        Args:
            target: The victim; its start may leave [0, 1].
            free: Variables besides the images, found by the simulator in its context: name to the start `[trials, ...]`.
            progress: Gets a report and the chance to keep a checkpoint after every step.

        Returns:
            The trial with the smallest objective.

        Raises:
            FloatingPointError: The objective was non-finite at the start of every trial.
        """
        free, progress = dict(free or {}), progress or Progress()
        trials = len(target.start)
        state = self._restored(progress, target)
        slope = self._slope(target, [*self.objective.parametrisation.variables, *free])
        while state.trial < trials:
            begun = self.objective.parametrisation.begin(target.start[state.trial])
            starts = [*begun.values(), *(value[state.trial] for value in free.values())]
            self._trial(state, starts, slope, progress, trials)
        values = torch.tensor(state.values)
        if not torch.isfinite(values).any():
            raise FloatingPointError("the objective is non-finite at the start of every trial")
        trial = int(torch.nan_to_num(values, nan=math.inf).argmin())
        losses = dict(zip(self.objective.names, slope(*state.best[trial])[1].tolist(), strict=True))
        matching = sum(term.weight.at(0.0) * losses[term.name] for term in self.objective.matching)
        found = dict(zip([*self.objective.parametrisation.variables, *free], state.best[trial], strict=True))
        images = self.objective.parametrisation.images(found)
        named = {name: found[name] for name in free}
        return Minimum(images, named, losses | {"matching": matching}, trial, state.diverged)

    def _trial(self, state: _State, starts: list[Tensor], slope: _Slope, progress: Progress, trials: int) -> None:
        """From where the state stands to the end of the trial."""
        if state.step == 0:
            state.variables = [value.detach().clone() for value in starts]
            state.best.append([value.clone() for value in state.variables])
            state.values.append(float(slope(*state.variables)[0]))
        solver: Any = torch.optim.LBFGS(
            state.variables,
            lr=self.optimiser.learning_rate,
            max_iter=self.optimiser.evaluations,
            history_size=self.optimiser.history,
        )
        if state.optimiser is not None:
            solver.load_state_dict(deepcopy(state.optimiser))
        while state.step < self.steps:
            solver.step(_closure(state.variables, slope))
            value, losses, *_ = slope(*state.variables)
            state.step += 1
            if not math.isfinite(float(value)):
                state.diverged += 1
                break
            if float(value) < state.values[-1]:
                state.values[-1], state.best[-1] = float(value), [one.clone() for one in state.variables]
            named = dict(zip(self.objective.names, losses.tolist(), strict=True))
            progress.report(state.trial * self.steps + state.step, trials * self.steps, "matching", named)
            state.optimiser = solver.state_dict()
            progress.save(deepcopy(vars(state)))
        state.trial, state.step, state.optimiser = state.trial + 1, 0, None

    def _restored(self, progress: Progress, target: Target) -> _State:
        saved = progress.restore()
        if saved is None:
            return _State()
        state = _State(**deepcopy(dict(saved)))
        device = target.start.device
        state.variables = [value.to(device) for value in state.variables]
        state.best = [[value.to(device) for value in trial] for trial in state.best]
        return state

    def _slope(self, target: Target, names: list[str]) -> _Slope:
        """Of the variables in the order of `names`: weighted sum, unweighted terms, and the gradient in each variable."""
        objective = self.objective
        schedules = [term.weight for term in objective.matching] + [term.weight for term in objective.priors]
        weights = torch.tensor([schedule.at(0.0) for schedule in schedules]).to(target.start)
        parameters = {name: value.detach() for name, value in self.parameters.items()}

        def weighted(variables: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            values = {name: variable[None] for name, variable in zip(names, variables, strict=True)}
            losses = objective.losses(values, target.observed, target.context, parameters)[:, 0]
            total = (weights * losses).sum()
            return total, (total, losses)

        def slope(*variables: Tensor) -> tuple[Tensor, ...]:
            with torch.no_grad():
                gradients, (total, losses) = grad(weighted, has_aux=True)(variables)
            return total, losses, *gradients

        recorded: _Slope | None = None

        def run(*variables: Tensor) -> tuple[Tensor, ...]:
            nonlocal recorded
            if recorded is None:
                recorded = slope
                if self.steps * self.optimiser.evaluations >= _RECORD_FROM:
                    try:
                        recorded = record(slope, [], list(variables))
                    except torch.OutOfMemoryError:
                        raise
                    except RuntimeError:  # such as a defense's view that decides by the value of a tensor
                        recorded = slope
            return recorded(*variables)

        return run


def _closure(variables: list[Tensor], slope: _Slope) -> Callable[[], Tensor]:
    def evaluate() -> Tensor:
        with torch.no_grad():
            value, _, *gradients = slope(*variables)
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.grad = gradient.clone()
        return value

    return evaluate
