"""The engine: minimises a weighted sum of gradient distances and image priors over candidate images, many at once.

An attack is a declaration (terms with schedules, a start, moves); the engine runs it for a group of victims with several trials
each, skips every term whose weight is 0, reports, checkpoints, and picks the trial whose gradient fits best. It sees no truth.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from privbench.core import ComputeOptions, Failure, Progress, Send
from privbench.inversion.optimisers import Adam
from privbench.inversion.relocation import relocation_order
from privbench.inversion.runner import Stepper, matmul_precision
from privbench.inversion.step import Objective, Simulator, Step, parameter_gradients
from privbench.inversion.terms import MatchingTerm, PriorTerm

__all__ = ["Inversion", "Outcome", "Rearrange", "Relocation", "Target", "group_size"]

_REPORT_EVERY = 10
_PICTURES = 24


def group_size(*, tokens: int, parameters: int, device: torch.device) -> int:
    """How many victims are best attacked in one step.

    On the CPU eight of a small model, the size that was measured (docs/research/benchmarks.md), and fewer of a larger one,
    whose products are wide enough alone. On CUDA the group grows until the tokens of a step fill the device or a quarter of its
    free memory is used, counted as six copies of the matched gradients and 200 values per token and unit of width: an
    estimate that no GPU has confirmed; where it is too large, the caller halves the group.

    Args:
        tokens: Tokens of all trials and images of one victim.
        parameters: Number of matched parameter values.
        device: Where to compute.

    Returns:
        At least 1.
    """
    if device.type != "cuda":
        return max(1, min(8, 1024 // max(tokens, 1)))
    free, _ = torch.cuda.mem_get_info(device)
    by_memory = free // 4 // (24 * parameters + 200 * 4 * 768 * tokens)
    return int(max(1, min(256, 65536 // max(tokens, 1), by_memory)))


class Rearrange(Protocol):
    """Moves patches of images `[batch, 3, height, width]`: position `j` takes the patch at `order[j]`."""

    def __call__(self, images: Tensor, order: Tensor) -> Tensor:
        """The moved images."""


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
class Target:
    """One victim: what is particular to it.

    Attributes:
        observed: The observed gradients by parameter name, the names that the inversion matches.
        context: What the simulator needs to know of this victim; the same names and shapes in all targets of a group.
        start: `[trials, batch, 3, height, width]` in [0, 1].
    """

    observed: Mapping[str, Tensor]
    start: Tensor
    context: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What the engine found for one victim.

    Attributes:
        images: `[batch, 3, height, width]` in [0, 1], of the trial with the smallest matching loss at the end.
        losses: Final value of every term of that trial, by name, unweighted, and `matching`, the weighted sum that selects.
        trial: Which trial it is.
    """

    images: Tensor
    losses: dict[str, float]
    trial: int


@dataclass
class _State:
    """What changes from step to step, and all that a checkpoint needs."""

    images: Tensor
    first: Tensor
    second: Tensor
    failures: list[str | None]
    step: int = 0

    def export(self) -> dict[str, Any]:
        tensors = {name: getattr(self, name).clone() for name in ("images", "first", "second")}
        return {"step": self.step, "failures": list(self.failures), **tensors}

    def restore(self, saved: Mapping[str, Any]) -> None:
        self.step, self.failures = int(saved["step"]), list(saved["failures"])
        for name in ("images", "first", "second"):
            setattr(self, name, saved[name].to(self.images))

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.images, self.first, self.second


@dataclass(frozen=True)
class Inversion:
    """One optimisation problem, the same for all victims of a group.

    Attributes:
        simulate: The simulated client's loss.
        parameters: The matched parameters of the simulated model by name.
        matching: Gradient distances; all weights 0 is a control run that never computes a gradient.
        priors: Image priors.
        steps: Optimisation steps.
        optimiser: Adam with its learning rate over time.
        relocation: Moves of patches, None for none.
        phase: The name of the schedule's phase at a progress in [0, 1), for display and trace.
        send: What the attacker does to a simulated gradient before it is compared; None for nothing.
    """

    simulate: Simulator
    parameters: Mapping[str, Tensor]
    matching: Sequence[MatchingTerm]
    priors: Sequence[PriorTerm]
    steps: int
    optimiser: Adam
    relocation: Relocation | None = None
    phase: Callable[[float], str] = lambda _: "matching"
    send: Send | None = None

    def run(
        self, targets: Sequence[Target], progress: Progress | None = None, compute: ComputeOptions | None = None
    ) -> list[Outcome | Failure]:
        """Minimises for every target, all in one step.

        Args:
            targets: At least one. The outcome of one does not depend on the others, to rounding.
            progress: Gets a report every few steps, and the chance to keep a checkpoint after each.
            compute: How to compute.

        Returns:
            One outcome for each target; a failure where its objective became non-finite.
        """
        progress, compute = progress or Progress(), compute or ComputeOptions()
        detached = replace(self, parameters={name: value.detach() for name, value in self.parameters.items()})
        with matmul_precision(compute, targets[0].start.device):
            return _Run(detached, targets, progress, compute).complete()

    def solve(self, target: Target, progress: Progress | None = None) -> Outcome:
        """Minimises for one target.

        Raises:
            FloatingPointError: The objective became non-finite.
        """
        (outcome,) = self.run([target], progress)
        if isinstance(outcome, Failure):
            raise FloatingPointError(outcome.reason)
        return outcome

    def active(self, step: int) -> Step:
        """The terms whose weight is not 0 at a step."""
        share = step / self.steps
        objective = Objective(
            self.simulate,
            [term for term in self.matching if term.weight.at(share) != 0],
            [term for term in self.priors if term.weight.at(share) != 0],
            self.send,
        )
        return Step(objective, self.optimiser)

    def settings(self, step: int) -> list[float]:
        """What `Step` takes at a step: learning rate, Adam's bias corrections, and a weight per active term."""
        share, count = step / self.steps, step + 1
        weights = [term.weight.at(share) for term in self.matching] + [term.weight.at(share) for term in self.priors]
        adam = self.optimiser
        corrections = 1 - adam.first_moment**count, 1 - adam.second_moment**count
        return [adam.learning_rate.at(share), *corrections, *filter(None, weights)]


class _Run:
    """One group being attacked."""

    def __init__(self, inversion: Inversion, targets: Sequence[Target], progress: Progress, compute: ComputeOptions) -> None:
        self.inversion = inversion
        self.targets = targets
        self.progress = progress
        self.observed = _stacked([target.observed for target in targets])
        self.context = _stacked([target.context for target in targets])
        images = torch.stack([target.start for target in targets]).detach().clone()
        self.state = _State(images, torch.zeros_like(images), torch.zeros_like(images), [None] * len(targets))
        self.plan = _Plan(inversion, images)
        self.step_with = Stepper(self.observed, self.context, inversion.parameters, compute, progress, self.plan.counts)
        self.losses: Tensor | None = None

    def complete(self) -> list[Outcome | Failure]:
        saved = self.progress.restore()
        if saved is not None:
            self.state.restore(saved)
        steps = self.inversion.steps
        while self.state.step < steps and not all(self.state.failures):
            active = self._advance()
            if self.state.step % _REPORT_EVERY == 0 or self.state.step == steps:
                self._report(active.names)
                self._show(active)
                self.progress.save(self.state.export())
        return [self._select(victim) for victim in range(len(self.targets))]

    def _advance(self) -> Step:
        state, inversion = self.state, self.inversion
        if inversion.relocation is not None and state.step in inversion.relocation.steps:
            self._relocate(inversion.relocation)
        active = inversion.active(state.step)
        if active.names:
            taken = self.step_with(active, state.tensors, self.plan.settings(state.step))
            state.images, state.first, state.second, self.losses = taken
        state.step += 1
        return active

    def _relocate(self, relocation: Relocation) -> None:
        """Moves the patches of every trial, and Adam's memory of their pixels with them."""
        table = {relocation.table: self.inversion.parameters[relocation.table]}
        moved = [tensor.clone() for tensor in self.state.tensors]
        for victim, target in enumerate(self.targets):
            images = self.state.images[victim]
            # As computed and not as sent: rows are compared across places, and a pattern of zeros belongs to one place.
            tables = parameter_gradients(self.inversion.simulate, table, images, target.context)[relocation.table]
            observed = relocation.rows(target.observed[relocation.table])
            for trial, candidate in enumerate(tables):
                if not torch.isfinite(candidate).all():
                    continue
                order = relocation_order(relocation.rows(candidate), observed).to(images.device)
                for tensor in moved:
                    tensor[victim, trial] = relocation.rearrange(tensor[victim, trial], order)
        self.state.images, self.state.first, self.state.second = moved

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
        images = self.state.images
        best = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        matching = len(active.objective.matching)
        if self.losses is not None and matching:
            weights = images.new_tensor(self.inversion.settings(self.state.step - 1)[3 : 3 + matching])
            best = (weights[:, None] * self.losses[:, :matching]).sum(1).nan_to_num(torch.inf).argmin(1)
        self.progress.picture(self.state.step, *images[torch.arange(len(images), device=images.device), best])

    def _select(self, victim: int) -> Outcome | Failure:
        """The trial with the smallest weighted matching loss at the final images: never the total, never the truth."""
        failure = self.state.failures[victim]
        if failure is not None:
            return Failure(failure)
        target, images, last = self.targets[victim], self.state.images[victim], self.inversion.steps - 1
        active, weights = self.inversion.active(last), self.inversion.settings(last)[3:]
        matching, values = images.new_zeros(len(images)), images.new_zeros(0, len(images))
        if active.names:
            with torch.no_grad():
                values = active.objective.losses(images, target.observed, target.context, self.inversion.parameters)
        for weight, value in zip(weights[: len(active.objective.matching)], values, strict=False):
            matching = matching + weight * value
        trial = int(matching.argmin())
        final = dict(zip(active.names, values[:, trial].tolist(), strict=True)) | {"matching": float(matching[trial])}
        return Outcome(images[trial].clone(), final, trial)


class _Plan:
    """The settings of all steps, on the device before the first one, so that no step waits for the host.

    Args:
        inversion: Whose schedules they are.
        like: Gives device and precision.
    """

    def __init__(self, inversion: Inversion, like: Tensor) -> None:
        rows: dict[tuple[str, ...], list[list[float]]] = {}
        self._places: list[tuple[tuple[str, ...], int]] = []
        for step in range(inversion.steps):
            names = tuple(inversion.active(step).names)
            same = rows.setdefault(names, [])
            self._places.append((names, len(same)))
            same.append(inversion.settings(step))
        self._tables = {names: torch.tensor(same, dtype=like.dtype, device=like.device) for names, same in rows.items()}

    @property
    def counts(self) -> dict[tuple[str, ...], int]:
        """Number of steps with each set of active terms."""
        return {names: len(table) for names, table in self._tables.items()}

    def settings(self, step: int) -> Tensor:
        """What `Step` takes at a step."""
        names, row = self._places[step]
        return self._tables[names][row]


def _stacked(groups: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([group[name].detach() for group in groups]) for name in groups[0]}
