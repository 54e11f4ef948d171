"""One case from private images to a record: the client's update, the attack, the scores, the pictures.

The way of the data is one direction. The secret stays in here and goes to scoring and to the comparison picture; an attack
receives observations, a generator for each, and a channel for its progress. Client batches are attacked in groups, one group on
each device at a time.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from privbench.core import (
    Attack,
    Case,
    ComputeOptions,
    Failure,
    GroupAttack,
    ImageResult,
    Interval,
    Observation,
    Reconstruction,
    Record,
    Secret,
    generator_for,
)
from privbench.models import victim_accuracy
from privbench.runner.channel import Channel, Outlet
from privbench.runner.devices import spread
from privbench.runner.interrupt import Interruption, interruptible
from privbench.runner.listener import Listener, Standing
from privbench.runner.pictures import Draw, picture_names, png, shown_results
from privbench.runner.prepare import Prepared, prepare
from privbench.runner.provenance import take_provenance
from privbench.scoring import (
    MetricSuite,
    bootstrap_interval,
    failed_scores,
    metric_suite,
    score_batch,
    score_choices,
    to_uint8,
)
from privbench.store.case_folder import CaseFolder
from privbench.store.checkpoints import BatchGroup, Checkpoints, FinishedBatch
from privbench.store.files import check_output
from privbench.store.layout import CASE, COMPARISON, TRACE
from privbench.store.trace import scored_trace, trace_csv
from privbench.undo import LOWER_BOUND, explains_input

__all__ = ["Suites", "check_case", "run_case", "summarise"]


class Suites:
    """The metrics of a series of cases: each suite is built once, so that a download is tried once.

    Args:
        lpips_weights: A local file with the trunk of LPIPS; None looks in torchvision's cache.
        download: Whether a missing trunk may be fetched.
    """

    def __init__(self, lpips_weights: Path | None = None, *, download: bool = True) -> None:
        self._lpips_weights = lpips_weights
        self._download = download
        self._built: dict[tuple[int | None, int, str], MetricSuite] = {}

    def suite(self, prepared: Prepared) -> MetricSuite:
        """The metrics for one case.

        Raises:
            UserError: The weights of LPIPS are not what they should be.
        """
        victim, net = prepared.victim, prepared.case.lpips
        key = (victim.patch_size, victim.image_size, net)
        if key not in self._built:
            self._built[key] = metric_suite(
                patch_size=victim.patch_size,
                image_size=victim.image_size,
                lpips_net=net,
                lpips_weights=self._lpips_weights,
                download=self._download,
            )
        return self._built[key]


def check_case(case: Case, *, device: torch.device, suites: Suites) -> None:
    """Finds what would keep a case from running, before anything runs or is written.

    Args:
        case: What is to be run.
        device: Where.
        suites: What it will be scored by.

    Raises:
        UserError: Something is missing, is not what the case says, or does not fit.
    """
    suites.suite(prepare(case, device))


def run_case(
    case: Case,
    *,
    output: Path,
    devices: Sequence[torch.device],
    force: bool = False,
    listener: Listener | None = None,
    suites: Suites | None = None,
    checkpoint_interval: float = 20.0,
    draw: Draw | None = None,
    group: int | None = None,
    compute: ComputeOptions | None = None,
) -> Record:
    """Computes a case, or takes it from the output folder where it is finished, or continues it where it was interrupted.

    Args:
        case: What to run.
        output: Folder of all cases.
        devices: Where to compute, at least one, all of one type: the client on the first, groups of attacks on all of them.
        force: Compute from the beginning what is finished or begun.
        listener: Who watches.
        suites: What to score by; None: everything that can be had.
        checkpoint_interval: Seconds between checkpoints at least.
        draw: Makes the comparison picture; None for none.
        group: How many client batches are attacked together; None: what the attack finds best, and for a case that was
            interrupted, what it began with.
        compute: How the attack computes; the number of runs is set here.

    Returns:
        The record, as it lies in the case's folder.

    Raises:
        UserError: Something does not fit, or the output folder cannot be written.
        Interrupted: Stopped by a signal; what is needed to continue is saved.
    """
    listener = listener or Listener()
    check_output(output)
    folder = CaseFolder(output, case)
    if not force and (record := folder.record()) is not None:
        listener.reused(record)
        return record
    started = time.perf_counter()
    prepared = prepare(case, devices[0])
    suite = (suites or Suites()).suite(prepared)
    for device in devices:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
    with folder.locked():
        # Another process may have finished the case while this one was preparing.
        if not force and (record := folder.record()) is not None:
            listener.reused(record)
            return record
        unusable = folder.has_unusable_record()
        if unusable:
            listener.note(f"the record in {folder.path} is damaged or of another version; the case is computed again")
        if force or unusable:
            folder.clear()
        way = _Way(tuple(devices), group, compute or ComputeOptions(), checkpoint_interval)
        return _Run(prepared, suite, folder, listener, way, draw, started).complete()


@dataclass(frozen=True)
class _Way:
    """How the user wants a case computed."""

    devices: tuple[torch.device, ...]
    group: int | None
    compute: ComputeOptions
    interval: float


@dataclass(frozen=True)
class _Group:
    """Client batches about to be attacked together; the secrets stay here."""

    slot: BatchGroup
    batches: tuple[int, ...]
    observations: tuple[Observation, ...]
    secrets: tuple[Secret, ...]
    channel: Channel


@dataclass(frozen=True)
class _Ending:
    """How the attack on a group ended; no results where the memory was too small for the group."""

    results: Sequence[Reconstruction | Failure] | None
    seconds: float


class _Run:
    """One case being computed, under the lock of its folder."""

    def __init__(
        self,
        prepared: Prepared,
        suite: MetricSuite,
        folder: CaseFolder,
        listener: Listener,
        way: _Way,
        draw: Draw | None,
        started: float,
    ) -> None:
        self.prepared = prepared
        self.case = prepared.case
        self.suite = suite
        self.folder = folder
        self.checkpoints = Checkpoints(folder.path, self.case)
        self.listener = listener
        self.way = way
        self.draw = draw
        self.started = started
        self.attacked_here = 0.0
        self.finished: dict[int, FinishedBatch] = {}
        self.speaking = threading.Lock()
        self.names = picture_names([prepared.images.image_name(index) for index in prepared.case.data.indices])

    def complete(self) -> Record:
        for batch in range(self.prepared.batches):
            self._take_finished(batch)
        self.listener.started(self.case, self.prepared.batches, sorted(self.finished))
        for name, reason in self.suite.unavailable.items():
            self.listener.note(f"{name} will be n/a: {reason}")
        self.folder.write(CASE, self.case.to_yaml().encode())
        self._compute(self._pending())
        batches = [self.finished[batch] for batch in range(self.prepared.batches)]
        self.folder.write(TRACE, trace_csv([batch.trace for batch in batches]).encode())
        results = tuple(image for batch in batches for image in batch.images)
        if self.draw is not None:
            self.folder.write(COMPARISON, self.draw(shown_results(self.prepared, results, self.folder.path)))
        record = self._record(results, sum(batch.seconds for batch in batches))
        record = self.folder.finish(record)
        self.listener.finished(record)
        return record

    def _take_finished(self, batch: int) -> None:
        finished, problem = self.checkpoints.load_batch(batch)
        if problem:
            self.listener.note(f"{problem}; the batch starts over")
        if finished is not None:
            self.finished[batch] = finished

    def _pending(self) -> list[int]:
        return [batch for batch in range(self.prepared.batches) if batch not in self.finished]

    def _compute(self, pending: list[int]) -> None:
        """Attacks and scores what is not finished: as many groups at a time as there are devices."""
        if not pending:
            return
        size = self._group_size(pending)
        groups = len({BatchGroup.of(batch, size) for batch in pending})
        compute = replace(self.way.compute, expected_groups=groups)
        with interruptible() as interruption:
            while pending:
                slots = sorted({BatchGroup.of(batch, size) for batch in pending}, key=lambda slot: slot.first)
                size = self._round(slots[: len(self.way.devices)], compute, interruption, size)
                interruption.honour()
                pending = self._pending()

    def _round(self, slots: Sequence[BatchGroup], compute: ComputeOptions, interruption: Interruption, size: int) -> int:
        """Attacks a group on each device and scores them; returns the group size to go on with.

        Client and scoring run while no attack does: they share the process's random state and precision with the attacks.
        """
        devices = self.way.devices[: len(slots)]
        groups = [self._begin(slot, device, interruption) for slot, device in zip(slots, devices, strict=True)]
        jobs = [self._job(group, compute, interruption) for group in groups]
        endings, error = spread(jobs, devices, compute=compute, interruption=interruption)
        size = self._end(groups, endings, size)
        if error is not None:
            raise error
        return size

    def _group_size(self, pending: list[int]) -> int:
        """How many batches are attacked together; says which checkpoints that leaves without use."""
        attack = self.prepared.attack
        interrupted = [slot for slot in self.checkpoints.interrupted() if not set(slot.batches).isdisjoint(pending)]
        if not isinstance(attack, GroupAttack):
            if self.way.group not in {None, 1}:
                self.listener.note(f"attack {attack.name} takes one client batch at a time; --group changes nothing")
            size = 1
        elif self.way.group is not None:
            size = self.way.group
        elif interrupted:
            size = interrupted[0].size
        else:
            share = math.ceil(self.prepared.batches / len(self.way.devices))
            size = min(attack.group_size(self.prepared.observe(0)[0]), share)
        size = min(size, self.prepared.batches)
        for slot in interrupted:
            if slot.size != size:
                self.listener.note(
                    f"the checkpoint {slot.file_name} is of groups of {slot.size}, these are groups of {size}; "
                    "the attack on these batches starts over"
                )
        return size

    def _begin(self, slot: BatchGroup, device: torch.device, interruption: Interruption) -> _Group:
        pending = tuple(batch for batch in slot.batches if batch < self.prepared.batches and batch not in self.finished)
        checkpoint, problem = self.checkpoints.load_checkpoint(slot, device)
        if checkpoint is not None and not set(pending) <= set(checkpoint.batches):
            problem = f"the checkpoint {slot.file_name} lacks a batch of its group"
            checkpoint = None
        if problem:
            self.listener.note(f"{problem}; the attack on these batches starts over")
        # A checkpoint is continued as it is, with batches that were scored before the interruption: their results are there.
        batches = checkpoint.batches if checkpoint else pending
        self.listener.group(self.case, batches)
        observed = [self.prepared.observe(batch) for batch in batches]
        return _Group(
            slot,
            batches,
            tuple(observation.to(device) for observation, _ in observed),
            tuple(secret for _, secret in observed),
            Channel(batches, checkpoint, self._outlet(slot, batches, device), interruption, self.way.interval),
        )

    def _outlet(self, slot: BatchGroup, batches: tuple[int, ...], device: torch.device) -> Outlet:
        checkpoints, case, listener, speaking = self.checkpoints, self.case, self.listener, self.speaking

        def show(step: int, total: int, phase: str, losses: Sequence[Mapping[str, float]]) -> None:
            with speaking:
                listener.step(case, Standing(batches, step, total, phase, tuple(losses)))

        def say(message: str) -> None:
            with speaking:
                listener.note(message)

        return Outlet(lambda checkpoint: checkpoints.save_checkpoint(slot, device, checkpoint), show, say)

    def _job(self, group: _Group, compute: ComputeOptions, interruption: Interruption) -> Callable[[], _Ending]:
        generators = [generator_for(self.case, "attack", batch) for batch in group.batches]

        def job() -> _Ending:
            with interruption.attack(group.channel):
                results = _attack(self.prepared.attack, group.observations, generators, group.channel, compute)
            return _Ending(results, group.channel.seconds())

        return job

    def _end(self, groups: Sequence[_Group], endings: Sequence[_Ending | None], size: int) -> int:
        """Scores what was attacked; returns the group size to go on with."""
        for group, ending in zip(groups, endings, strict=True):
            if ending is None:
                continue
            self.attacked_here += ending.seconds - group.channel.seconds_before
            if ending.results is not None:
                self._score(group, ending.results, ending.seconds / len(group.batches))
                continue
            self.checkpoints.drop_checkpoint(group.slot)
            if self.prepared.device.type == "cuda":
                torch.cuda.empty_cache()
            smaller = len(group.batches) // 2
            if smaller < size:
                self.listener.note(f"out of memory with groups of {len(group.batches)}; continuing with groups of {smaller}")
                size = smaller
        return size

    def _score(self, group: _Group, results: Sequence[Reconstruction | Failure], seconds: float) -> None:
        """Scores and keeps each batch of a group, with its share of the attack's time."""
        channel = group.channel
        clients = zip(group.batches, group.observations, group.secrets, strict=True)
        parts = zip(clients, results, channel.traces, channel.pictures, strict=True)
        for (batch, observation, secret), result, reported, shown in parts:
            if batch in self.finished:
                continue
            images = (
                self._failed(batch, secret, result.reason, seconds)
                if isinstance(result, Failure)
                else self._scored(batch, secret, self._bounded(result, observation, secret), seconds)
            )
            trace = scored_trace(reported, shown, secret.images.float().cpu())
            self.finished[batch] = FinishedBatch(images, trace, seconds, len(group.batches))
            self.checkpoints.save_batch(batch, self.finished[batch])
            self.listener.batch(self.case, batch)
        self.checkpoints.drop_checkpoint(group.slot)

    def _bounded(self, result: Reconstruction, observation: Observation, secret: Secret) -> Reconstruction:
        """The same, flagged where this adversary could not have found the private images: its score is a lower bound."""
        prepared = self.prepared
        if torch.equal(secret.fed, secret.images):
            return result
        view = prepared.defense.view(prepared.victim, observation.to(prepared.device))
        if explains_input(view, secret.images, secret.fed, prepared.victim.patch_size):
            return result
        return replace(result, flags=tuple(dict.fromkeys((*result.flags, LOWER_BOUND))))

    def _scored(self, batch: int, secret: Secret, reconstruction: Reconstruction, seconds: float) -> tuple[ImageResult, ...]:
        images = reconstruction.images.detach().float().cpu()
        recovered = None if reconstruction.labels is None else reconstruction.labels.tolist()
        truth = secret.images.float().cpu()
        scored = score_batch(images, truth, self.suite)
        found = score_choices(
            reconstruction.inferred,
            self.prepared.defense.scored_choices(secret.choices),
            images,
            truth,
            self.prepared.victim.patch_size,
            source=[scores.source for scores in scored],
        )
        saved = to_uint8(images)
        results = []
        for position, (scores, choices) in enumerate(zip(scored, found, strict=True)):
            picture = self.names[batch * self.case.batch_size + position]
            self.folder.write(picture, png(saved[scores.source]))
            results.append(
                ImageResult(
                    image=self._image_name(batch, position),
                    batch=batch,
                    label=int(secret.labels[position]),
                    recovered_label=None if recovered is None else int(recovered[scores.source]),
                    mask_accuracy=choices.mask_accuracy,
                    order_accuracy=choices.order_accuracy,
                    scores=dict(scores.scores),
                    scores_saved=dict(scores.scores_saved),
                    losses={name: float(value) for name, value in reconstruction.losses.items()},
                    steps=reconstruction.steps,
                    seconds=seconds / self.case.batch_size,
                    reconstruction=picture,
                    flags=tuple(reconstruction.flags),
                )
            )
        return tuple(results)

    def _failed(self, batch: int, secret: Secret, failure: str, seconds: float) -> tuple[ImageResult, ...]:
        self.listener.note(f"batch {batch} of {self.case.defense_text} failed: {failure}")
        worst = failed_scores(self.suite)
        return tuple(
            ImageResult(
                image=self._image_name(batch, position),
                batch=batch,
                label=int(label),
                recovered_label=None,
                scores=worst,
                scores_saved=worst,
                losses={},
                steps=0,
                seconds=seconds / self.case.batch_size,
                reconstruction=None,
                failure=failure,
            )
            for position, label in enumerate(secret.labels)
        )

    def _image_name(self, batch: int, position: int) -> str:
        return self.prepared.images.image_name(self.prepared.indices(batch)[position])

    def _record(self, results: tuple[ImageResult, ...], attacked: float) -> Record:
        # Attack time counts over all sessions, everything else as this session measured it.
        seconds = attacked + time.perf_counter() - self.started - self.attacked_here
        return Record(
            case_id=self.case.identity,
            case=self.case,
            images=results,
            summary=summarise([image.scores for image in results], self.case.seed),
            summary_saved=summarise([image.scores_saved for image in results], self.case.seed),
            unavailable=dict(self.suite.unavailable),
            victim_accuracy=victim_accuracy(self.case.victim, self.prepared.defense),
            flags=self._flags(results),
            provenance=take_provenance(
                self.way.devices,
                seconds,
                compute=self.way.compute,
                group=max(batch.group for batch in self.finished.values()),
            ),
        )

    def _flags(self, results: tuple[ImageResult, ...]) -> tuple[str, ...]:
        flags = {flag for image in results for flag in image.flags} | self.prepared.flags
        if any(image.failure for image in results):
            flags.add("failed-images")
        return tuple(sorted(flags))


def _attack(
    attack: Attack,
    observations: Sequence[Observation],
    generators: Sequence[torch.Generator],
    channel: Channel,
    compute: ComputeOptions,
) -> Sequence[Reconstruction | Failure] | None:
    """Attacks a group; what goes wrong with all of it is a failure of each, None where the memory is too small for so many."""
    try:
        results = attack.together(observations, generators=generators, progress=channel, compute=compute)
    except (RuntimeError, ArithmeticError) as error:
        # torch.OutOfMemoryError is a RuntimeError, FloatingPointError an ArithmeticError.
        if _out_of_memory(error) and len(observations) > 1:
            return None
        return [Failure(_one_line(error))] * len(observations)
    return [_finite(result) for result in results]


def _finite(result: Reconstruction | Failure) -> Reconstruction | Failure:
    if isinstance(result, Failure):
        return result
    broken = [name for name, value in result.losses.items() if not math.isfinite(value)]
    return Failure(f"the loss {broken[0]} is not finite") if broken else result


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "not enough memory" in text


def summarise(scores: Sequence[Mapping[str, float]], seed: int) -> dict[str, Interval]:
    """The mean of each metric over images, with its interval.

    Args:
        scores: Metric name to value, one mapping per image.
        seed: Of the bootstrap.
    """
    return {name: bootstrap_interval([image[name] for image in scores], seed=seed) for name in scores[0]}


def _one_line(error: BaseException) -> str:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"[:300] if first else type(error).__name__
