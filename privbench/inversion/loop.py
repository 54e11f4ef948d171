"""The loop over a group of victims: steps, moves of patches, reports, checkpoints, failures, and the choice of the trial."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from privbench.core import ComputeOptions, Failure, Progress
from privbench.inversion.exchange import Exchange, exchanged, exchanged_rows, image_of_each_place
from privbench.inversion.plan import Plan, settings_at
from privbench.inversion.problem import Outcome, Problem, Target
from privbench.inversion.registration import Consensus
from privbench.inversion.relocation import Relocation, relocation_order
from privbench.inversion.runner import Stepper
from privbench.inversion.step import Step, parameter_gradients
from privbench.inversion.variables import Moving

__all__ = ["OptimisationLoop"]

_REPORT_EVERY = 10
_LONG = 60.0
"""Seconds from which an attack's expected time is told before it goes on."""
_PICTURES = 24


@dataclass
class _State:
    """What changes from step to step, and all that a checkpoint needs."""

    moving: Moving
    failures: list[str | None]
    step: int = 0

    def export(self) -> dict[str, Any]:
        tensors = {name: {key: one.clone() for key, one in part.items()} for name, part in vars(self.moving).items()}
        return {"step": self.step, "failures": list(self.failures), **tensors}

    def is_like(self, saved: Mapping[str, Any]) -> bool:
        """Whether a checkpoint is of the same variables; one of an older version of an attack may be of others."""
        found = saved["values"]
        return {name: one.shape for name, one in found.items()} == {name: one.shape for name, one in self.moving.values.items()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        self.step, self.failures = int(saved["step"]), list(saved["failures"])
        device = next(iter(self.moving.values.values())).device
        self.moving = Moving(
            *({key: one.to(device) for key, one in saved[name].items()} for name in ("values", "first", "second"))
        )


class OptimisationLoop:
    """One group being attacked."""

    def __init__(self, inversion: Problem, targets: Sequence[Target], progress: Progress, compute: ComputeOptions) -> None:
        self.inversion = inversion
        self.targets = targets
        self.progress = progress
        self.observed = _stacked([target.observed for target in targets])
        self.context = _stacked([target.context for target in targets])
        begun = [{**inversion.parametrisation.begin(target.start.detach()), **target.free} for target in targets]
        self.state = _State(Moving.at_rest(_stacked(begun)), [None] * len(targets))
        self.variables = inversion.variables
        settings = [
            settings_at(step, inversion.steps, self.variables, inversion.weights(step)) for step in range(inversion.steps)
        ]
        self.plan = Plan(settings, targets[0].start)
        self.step_with = Stepper(self.observed, self.context, inversion.parameters, compute, progress, self.plan.counts)
        self.losses: Tensor | None = None

    def complete(self) -> list[Outcome | Failure]:
        """Runs the steps that are left; one outcome for each target."""
        saved = self.progress.restore()
        if saved is not None and self.state.is_like(saved):
            self.state.restore(saved)
        elif saved is not None:
            self.progress.note("the checkpoint is of other variables than this attack has; it starts anew")
        steps, begun = self.inversion.steps, self.state.step
        while self.state.step < steps and not all(self.state.failures):
            before = time.perf_counter()
            active = self._advance()
            if self.state.step == begun + 2:  # the first step records the graph
                self._foretell(time.perf_counter() - before)
            if self.state.step % _REPORT_EVERY == 0 or self.state.step == steps:
                self._report(active.names)
                self._show(active)
                self.progress.save(self.state.export())
        return [self._select(victim) for victim in range(len(self.targets))]

    def _foretell(self, seconds: float) -> None:
        """Says how long the attack will take at the pace of one step, where that is worth knowing."""
        expected = seconds * (self.inversion.steps - self.state.step)
        if self.state.moving.tensors[0].device.type == "cpu" and expected >= _LONG:
            victims = f"{len(self.targets)} clients together" if len(self.targets) > 1 else "one client"
            self.progress.note(
                f"{self.inversion.steps} steps of {victims}: about {round(expected / 60) or 1} min on this machine"
            )

    def _advance(self) -> Step:
        state, inversion = self.state, self.inversion
        if inversion.relocation is not None and state.step in inversion.relocation.steps:
            self._relocate(inversion.relocation)
        if inversion.exchange is not None and state.step in inversion.exchange.steps:
            self._exchange(inversion.exchange)
        if inversion.consensus is not None and state.step in inversion.consensus.steps:
            self._agree(inversion.consensus)
        active = inversion.active(state.step)
        if active.names:
            state.moving, self.losses = self.step_with(active, state.moving, *self.plan.at(state.step))
        state.step += 1
        return active

    def _images(self, victim: int) -> Tensor:
        """The candidates `[trials, batch, 3, height, width]` of a victim, in [0, 1]."""
        return self.inversion.parametrisation.images(_only(self.state.moving.values, victim)).clamp(0, 1)

    def _free(self, victim: int) -> dict[str, Tensor]:
        return {name: self.state.moving.values[name][victim] for name in self.inversion.free}

    def _relocate(self, relocation: Relocation) -> None:
        """Moves the patches of every trial, and Adam's memory of their pixels with them."""
        table = {relocation.table: self.inversion.parameters[relocation.table]}
        moving = self.state.moving.like([tensor.clone() for tensor in self.state.moving.tensors])
        for victim, target in enumerate(self.targets):
            images, free = self._images(victim), self._free(victim)
            # As computed and not as sent: rows are compared across places, and a pattern of zeros belongs to one place.
            tables = parameter_gradients(self.inversion.simulate, table, images, target.context, free)[relocation.table]
            observed = relocation.rows(target.observed[relocation.table])
            for trial, candidate in enumerate(tables):
                if torch.isfinite(candidate).all():
                    order = relocation_order(relocation.rows(candidate), observed).to(images.device)
                    self._move(moving, victim, trial, partial(relocation.rearrange, order=order))
        self.state.moving = moving

    def _exchange(self, exchange: Exchange) -> None:
        """Exchanges the patches of every trial between the images of its batch, and what goes with them."""
        moving = self.state.moving.like([tensor.clone() for tensor in self.state.moving.tensors])
        size = exchange.patch_size
        for victim in range(len(self.targets)):
            for trial, images in enumerate(self._images(victim)):
                if not torch.isfinite(images).all():
                    continue
                order = image_of_each_place(images, size)
                self._move(moving, victim, trial, partial(exchanged, order=order, patch_size=size))
                for name, first in exchange.rows.items():
                    for part in (moving.values, moving.first, moving.second):
                        if name in part:
                            part[name][victim, trial] = exchanged_rows(part[name][victim, trial], order, first)
        self.state.moving = moving

    def _move(self, moving: Moving, victim: int, trial: int, move: Callable[[Tensor], Tensor]) -> None:
        """Moves the pixels of one trial in place."""
        one = moving.like([tensor[victim, trial] for tensor in moving.tensors])
        moved = self.inversion.parametrisation.moved(one, move)
        for tensor, value in zip(moving.tensors, moved.tensors, strict=True):
            tensor[victim, trial] = value

    def _agree(self, consensus: Consensus) -> None:
        """Renews what the trials of each victim agree on."""
        found = torch.stack([consensus.of(self._images(victim)) for victim in range(len(self.targets))])
        values = {**self.state.moving.values, consensus.name: found}
        self.state.moving = replace(self.state.moving, values=values)

    def _report(self, names: Sequence[str]) -> None:
        share = (self.state.step - 1) / self.inversion.steps
        means = [[]] * len(self.targets) if self.losses is None else self.losses.mean(2).tolist()
        reports = [dict(zip(names, values, strict=True)) for values in means]
        for victim, report in enumerate(reports):
            broken = next((name for name, value in report.items() if not math.isfinite(value)), None)
            if broken and self.state.failures[victim] is None:
                self.state.failures[victim] = (
                    f"the loss '{broken}' became non-finite at step {self.state.step}; lower the learning rate"
                )
        self.progress.report(self.state.step, self.inversion.steps, self.inversion.phase(share), *reports)

    def _show(self, active: Step) -> None:
        """Shows the present guess of every victim at about two dozen reports: of the trial whose gradient fits best by now."""
        steps = self.inversion.steps
        every = _REPORT_EVERY * max(1, steps // (_REPORT_EVERY * _PICTURES))
        if self.state.step % every and self.state.step != steps:
            return
        victims = range(len(self.targets))
        best = [0] * len(victims)
        matching = [term.name for term in active.objective.matching]
        if self.losses is not None and matching:
            weights = self.inversion.weights(self.state.step - 1)
            shares = self.losses.new_tensor([weights[name] for name in matching])
            totals = (shares[:, None] * self.losses[:, : len(matching)]).sum(1)
            best = totals.nan_to_num(torch.inf).argmin(1).tolist()
        self.progress.picture(self.state.step, *(self._images(victim)[best[victim]] for victim in victims))

    def _select(self, victim: int) -> Outcome | Failure:
        """The trial with the smallest weighted matching loss at the final images: never the total, never the truth."""
        failure = self.state.failures[victim]
        if failure is not None:
            return Failure(failure)
        target, images, free = self.targets[victim], self._images(victim), self._free(victim)
        last = self.inversion.steps - 1
        active, weights = self.inversion.active(last), self.inversion.weights(last)
        matching, values = images.new_zeros(len(images)), images.new_zeros(0, len(images))
        if active.names:
            with torch.no_grad():
                values = active.objective.losses_of(images, free, target.observed, target.context, self.inversion.parameters)
        for term, value in zip(active.objective.matching, values, strict=False):
            matching = matching + weights[term.name] * value
        trial = int(matching.argmin())
        final = dict(zip(active.names, values[:, trial].tolist(), strict=True)) | {"matching": float(matching[trial])}
        return Outcome(images[trial].clone(), final, trial, {name: value[trial].clone() for name, value in free.items()})


def _only(group: Mapping[str, Tensor], victim: int) -> dict[str, Tensor]:
    return {name: value[victim] for name, value in group.items()}


def _stacked(groups: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([group[name].detach() for group in groups]) for name in groups[0]}
