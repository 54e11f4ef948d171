"""One case being computed: client batches in groups, one group on each device at a time, attacked, scored and kept.

The way of the data is one direction. The secret stays in here and goes to scoring and to the comparison picture; an attack
receives observations, a generator for each, and a channel for its progress.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from privbench.computing.attacking import GroupOutcome, attack_group
from privbench.computing.devices import run_on_devices
from privbench.computing.interrupt import Interruption
from privbench.computing.isolated import attack_isolated
from privbench.computing.progress import AttackProgress, ProgressSinks
from privbench.core import (
    ComputeOptions,
    Failure,
    Observation,
    Reconstruction,
    Record,
    Secret,
    generator_for,
)
from privbench.runner.animation import ANIMATED_IMAGES, case_animation
from privbench.runner.context import CaseContext
from privbench.runner.explained import share_of
from privbench.runner.grouping import group_size
from privbench.runner.image_results import ResultScorer
from privbench.runner.listener import Listener, StepReport
from privbench.runner.pictures import Draw, png, shown_results
from privbench.runner.recording import finished_record
from privbench.scoring import MetricSuite
from privbench.store.case_folder import CaseFolder
from privbench.store.checkpoints import BatchGroup, Checkpoint, Checkpoints, FinishedBatch
from privbench.store.layout import CASE, COMPARISON, EVOLUTION, TRACE, WORK
from privbench.store.trace import scored_trace, trace_csv

__all__ = ["CaseRunner"]


@dataclass(frozen=True)
class _Group:
    """Client batches about to be attacked together; the secrets stay here."""

    slot: BatchGroup
    batches: tuple[int, ...]
    observations: tuple[Observation, ...]
    secrets: tuple[Secret, ...]
    progress: AttackProgress


class CaseRunner:
    """One case being computed, under the lock of its folder.

    Args:
        context: The case.
        suite: What to score by.
        folder: Where it goes.
        listener: Who watches.
        compute: Where and how.
        interruption: Whether to stop.
    """

    def __init__(
        self,
        context: CaseContext,
        suite: MetricSuite,
        folder: CaseFolder,
        listener: Listener,
        compute: ComputeOptions,
        interruption: Interruption,
    ) -> None:
        self._context = context
        self._case = context.case
        self._suite = suite
        self._scorer = ResultScorer(context, suite)
        self._folder = folder
        self._checkpoints = Checkpoints(folder.path, self._case)
        self._listener = listener
        self._compute = compute
        self._interruption = interruption
        self._attacked_here = 0.0
        self._finished: dict[int, FinishedBatch] = {}
        self._listener_lock = threading.Lock()

    def complete(self, draw: Draw | None, started: float) -> Record:
        """Computes what is not finished, and writes the record.

        Args:
            draw: Makes the comparison picture; None for none.
            started: When the work on the case began (`time.perf_counter`).
        """
        for batch in range(self._context.batches):
            self._take_finished(batch)
        self._listener.started(self._case, self._context.batches, sorted(self._finished))
        for name, reason in self._suite.unavailable.items():
            self._listener.note(f"{name} will be n/a: {reason}")
        if self._context.images.left_out:
            self._listener.note(self._context.images.left_out)
        self._folder.write(CASE, self._case.to_yaml().encode())
        self._attack_pending()
        batches = [self._finished[batch] for batch in range(self._context.batches)]
        self._folder.write(TRACE, trace_csv([batch.trace for batch in batches]).encode())
        if draw is not None:
            results = tuple(image for batch in batches for image in batch.images)
            self._folder.write(COMPARISON, draw(shown_results(self._context, results, self._folder.path)))
            shown = {batch: self._checkpoints.load_shown(batch) for batch in range(min(self._context.batches, ANIMATED_IMAGES))}
            if (animation := case_animation(self._context, shown)) is not None:
                self._folder.write(EVOLUTION, animation)
        # Attack time counts over all sessions, everything else as this session measured it.
        seconds = sum(batch.seconds for batch in batches) + time.perf_counter() - started - self._attacked_here
        record = self._folder.finish(finished_record(self._context, self._suite, self._compute, batches, seconds))
        self._listener.finished(record)
        return record

    def _take_finished(self, batch: int) -> None:
        finished, problem = self._checkpoints.load_batch(batch)
        if problem:
            self._listener.note(f"{problem}; the batch starts over")
        if finished is not None:
            self._finished[batch] = finished

    def _pending(self) -> list[int]:
        return [batch for batch in range(self._context.batches) if batch not in self._finished]

    def _attack_pending(self) -> None:
        """Attacks and scores what is not finished: as many groups at a time as there are devices."""
        pending = self._pending()
        if not pending:
            return
        size = group_size(self._context, self._checkpoints, pending, self._compute, self._listener)
        groups = len({BatchGroup.of(batch, size) for batch in pending})
        compute = replace(self._compute, expected_groups=groups)
        while pending:
            slots = sorted({BatchGroup.of(batch, size) for batch in pending}, key=lambda slot: slot.first)
            size = self._round(slots[: len(compute.devices)], compute, size)
            self._interruption.raise_if_requested()
            pending = self._pending()

    def _round(self, slots: Sequence[BatchGroup], compute: ComputeOptions, size: int) -> int:
        """Attacks a group on each device and scores them; returns the group size to go on with.

        Client and scoring run while no attack does: they share the process's random state and precision with the attacks.
        """
        devices = compute.devices[: len(slots)]
        groups = [self._begin(slot, device) for slot, device in zip(slots, devices, strict=True)]
        jobs = [self._job(group, compute) for group in groups]
        outcomes, error = run_on_devices(jobs, devices, compute=compute, interruption=self._interruption)
        size = self._end(groups, outcomes, size)
        if error is not None:
            raise error
        return size

    def _begin(self, slot: BatchGroup, device: torch.device) -> _Group:
        pending = tuple(batch for batch in slot.batches if batch < self._context.batches and batch not in self._finished)
        checkpoint, problem = self._checkpoints.load_checkpoint(slot, device)
        if checkpoint is not None and not set(pending) <= set(checkpoint.batches):
            problem = f"the checkpoint {slot.file_name} lacks a batch of its group"
            checkpoint = None
        if problem:
            self._listener.note(f"{problem}; the attack on these batches starts over")
        # A checkpoint is continued as it is, with batches that were scored before the interruption: their results are there.
        batches = checkpoint.batches if checkpoint else pending
        self._listener.group(self._case, batches)
        observed = [self._context.observe(batch) for batch in batches]
        observations = tuple(observation.to(device) for observation, _ in observed)
        sinks = self._sinks(slot, batches, device, observations[0])
        return _Group(
            slot,
            batches,
            observations,
            tuple(secret for _, secret in observed),
            AttackProgress(batches, checkpoint, sinks, self._interruption, self._compute.checkpoint_interval),
        )

    def _sinks(self, slot: BatchGroup, batches: tuple[int, ...], device: torch.device, first: Observation) -> ProgressSinks:
        checkpoints, case, listener, lock = self._checkpoints, self._case, self._listener, self._listener_lock
        folder = self._folder

        def show(step: int, total: int, phase: str, losses: Sequence[Mapping[str, float]]) -> None:
            with lock:
                listener.step(case, StepReport(batches, step, total, phase, tuple(losses)))

        def say(message: str) -> None:
            with lock:
                listener.note(message)

        def picture(guesses: Sequence[Tensor]) -> None:
            # For whoever looks into the folder while the attack runs; it goes when the case is finished.
            side_by_side = torch.cat([image for guess in guesses for image in guess], dim=2)
            folder.write(f"{WORK}/{Path(slot.file_name).with_suffix('.png')}", png(side_by_side))
            with lock:
                listener.picture(case, batches, guesses)

        def keep(checkpoint: Checkpoint) -> None:
            checkpoints.save_checkpoint(slot, device, checkpoint)

        return ProgressSinks(keep, show, say, picture, lambda guess: share_of(Reconstruction(images=guess), first))

    def _job(self, group: _Group, compute: ComputeOptions) -> Callable[[], GroupOutcome]:
        attack, interruption = self._context.attack, self._interruption
        generators = [generator_for(self._case, "attack", batch) for batch in group.batches]

        def job() -> GroupOutcome:
            with interruption.attack(group.progress):
                if compute.isolate:
                    seeds = [generator.initial_seed() for generator in generators]
                    results = attack_isolated(self._case.attack, group.observations, seeds=seeds, compute=compute)
                else:
                    results = attack_group(
                        attack, group.observations, generators=generators, progress=group.progress, compute=compute
                    )
            return GroupOutcome(results, group.progress.seconds())

        return job

    def _end(self, groups: Sequence[_Group], outcomes: Sequence[GroupOutcome | None], size: int) -> int:
        """Scores what was attacked; returns the group size to go on with."""
        for group, outcome in zip(groups, outcomes, strict=True):
            if outcome is None:
                continue
            self._attacked_here += outcome.seconds - group.progress.seconds_before
            if outcome.results is not None:
                self._score(group, outcome.results, outcome.seconds / len(group.batches))
                continue
            self._checkpoints.drop_checkpoint(group.slot)
            if self._context.device.type == "cuda":
                torch.cuda.empty_cache()
            smaller = len(group.batches) // 2
            if smaller < size:
                self._listener.note(f"out of memory with groups of {len(group.batches)}; continuing with groups of {smaller}")
                size = smaller
        return size

    def _score(self, group: _Group, results: Sequence[Reconstruction | Failure], seconds: float) -> None:
        """Scores and keeps each batch of a group, with its share of the attack's time."""
        progress = group.progress
        clients = zip(group.batches, group.observations, group.secrets, strict=True)
        parts = zip(clients, results, progress.traces, progress.pictures, strict=True)
        for (batch, observation, secret), result, reported, shown in parts:
            if batch in self._finished:
                continue
            if isinstance(result, Failure):
                self._listener.note(f"batch {batch} of {self._case.defense_text} failed: {result.reason}")
            scored = self._scorer.score(batch, observation, secret, result, seconds)
            for name, content in scored.pictures.items():
                self._folder.write(name, content)
            trace = scored_trace(reported, shown, secret.images.float().cpu())
            self._finished[batch] = FinishedBatch(scored.images, trace, seconds, len(group.batches))
            if batch < ANIMATED_IMAGES and shown:
                self._checkpoints.save_shown(batch, shown)
            self._checkpoints.save_batch(batch, self._finished[batch])
            self._listener.batch(self._case, batch)
        self._checkpoints.drop_checkpoint(group.slot)
