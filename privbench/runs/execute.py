"""One case from private images to a record: the client's update, the attack, the scores, the pictures.

The way of the data is one direction. The secret stays in here and goes to scoring and to the comparison picture; an attack
receives the observation, a generator of its own, and a channel for its progress.
"""

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from privbench.core import Case, ImageResult, Interval, Observation, Progress, Reconstruction, Record, Secret, generator_for
from privbench.models import victim_accuracy
from privbench.runs.interrupt import Interruption, interruptible
from privbench.runs.listener import Listener
from privbench.runs.pictures import Draw, png, shown_results
from privbench.runs.prepare import Prepared, prepare
from privbench.runs.provenance import take_provenance
from privbench.runs.store import (
    CASE,
    COMPARISON,
    RECONSTRUCTIONS,
    TRACE,
    CaseFolder,
    Checkpoint,
    FinishedBatch,
    check_output,
)
from privbench.runs.trace import TraceRow, trace_csv
from privbench.scoring import MetricSuite, bootstrap_interval, failed_scores, metric_suite, score_batch, to_uint8

__all__ = ["Suites", "check_case", "run_case"]


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
    device: torch.device,
    force: bool = False,
    listener: Listener | None = None,
    suites: Suites | None = None,
    checkpoint_interval: float = 20.0,
    draw: Draw | None = None,
) -> Record:
    """Computes a case, or takes it from the output folder where it is finished, or continues it where it was interrupted.

    Args:
        case: What to run.
        output: Folder of all cases.
        device: Where to compute.
        force: Compute from the beginning what is finished or begun.
        listener: Who watches.
        suites: What to score by; None: everything that can be had.
        checkpoint_interval: Seconds between checkpoints at least.
        draw: Makes the comparison picture; None for none.

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
    prepared = prepare(case, device)
    suite = (suites or Suites()).suite(prepared)
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
        return _Run(prepared, suite, folder, listener, checkpoint_interval, draw, started).complete()


class _Run:
    """One case being computed, under the lock of its folder."""

    def __init__(
        self,
        prepared: Prepared,
        suite: MetricSuite,
        folder: CaseFolder,
        listener: Listener,
        interval: float,
        draw: Draw | None,
        started: float,
    ) -> None:
        self.prepared = prepared
        self.case = prepared.case
        self.suite = suite
        self.folder = folder
        self.listener = listener
        self.interval = interval
        self.draw = draw
        self.started = started
        self.attacked_here = 0.0
        self.names = _file_names([prepared.images.image_name(index) for index in prepared.case.data.indices])

    def complete(self) -> Record:
        self.listener.started(self.case, self.prepared.batches)
        for name, reason in self.suite.unavailable.items():
            self.listener.note(f"{name} will be n/a: {reason}")
        self.folder.write(CASE, self.case.to_yaml().encode())
        batches = []
        with interruptible() as interruption:
            for batch in range(self.prepared.batches):
                batches.append(self._finished(batch) or self._compute(batch, interruption))
                interruption.honour()
        self.folder.write(TRACE, trace_csv([batch.trace for batch in batches]).encode())
        results = tuple(image for batch in batches for image in batch.images)
        if self.draw is not None:
            self.folder.write(COMPARISON, self.draw(shown_results(self.prepared, results, self.folder.path)))
        record = self._record(results, sum(batch.seconds for batch in batches))
        self.folder.finish(record)
        self.listener.finished(record)
        return record

    def _finished(self, batch: int) -> FinishedBatch | None:
        finished, problem = self.folder.load_batch(batch)
        if problem:
            self.listener.note(f"{problem}; the batch starts over")
        return finished

    def _compute(self, batch: int, interruption: Interruption) -> FinishedBatch:
        observation, secret = self.prepared.observe(batch)
        checkpoint, problem = self.folder.load_checkpoint(batch, self.prepared.device)
        if problem:
            self.listener.note(f"{problem}; the attack on this batch starts over")
        self.listener.batch(self.case, batch)
        channel = self._channel(batch, checkpoint, interruption)
        try:
            reconstruction, failure = self._attack(observation, batch, channel)
        finally:
            interruption.deferrable = False
        seconds = channel.seconds()
        self.attacked_here += seconds - channel.seconds_before
        images = (
            self._failed(batch, secret, failure or "no reason given", seconds)
            if reconstruction is None
            else self._scored(batch, secret, reconstruction, seconds)
        )
        finished = FinishedBatch(images, tuple(channel.trace), seconds)
        self.folder.save_batch(batch, finished)
        return finished

    def _channel(self, batch: int, checkpoint: Checkpoint | None, interruption: Interruption) -> "_Channel":
        # The attack holds the channel, so the channel gets two functions that do not lead to the secret.
        folder, case, device, listener = self.folder, self.case, self.prepared.device, self.listener
        return _Channel(
            checkpoint,
            lambda state: folder.save_checkpoint(batch, device, state),
            lambda step, total, phase, losses: listener.step(case, batch, step, total, phase, losses),
            interruption,
            self.interval,
        )

    def _attack(self, observation: Observation, batch: int, channel: "_Channel") -> tuple[Reconstruction | None, str | None]:
        try:
            reconstruction = self.prepared.attack(
                observation, generator=generator_for(self.case, "attack", batch), progress=channel
            )
        except (RuntimeError, ArithmeticError) as error:
            # torch.OutOfMemoryError is a RuntimeError, FloatingPointError an ArithmeticError.
            return None, _one_line(error)
        broken = [name for name, value in reconstruction.losses.items() if not math.isfinite(value)]
        return (None, f"the loss {broken[0]} is not finite") if broken else (reconstruction, None)

    def _scored(self, batch: int, secret: Secret, reconstruction: Reconstruction, seconds: float) -> tuple[ImageResult, ...]:
        images = reconstruction.images.detach().float().cpu()
        recovered = None if reconstruction.labels is None else reconstruction.labels.tolist()
        scored = score_batch(images, secret.images.float().cpu(), self.suite)
        saved = to_uint8(images)
        results = []
        for position, scores in enumerate(scored):
            picture = self.names[batch * self.case.batch_size + position]
            self.folder.write(picture, png(saved[scores.source]))
            results.append(
                ImageResult(
                    image=self._image_name(batch, position),
                    batch=batch,
                    label=int(secret.labels[position]),
                    recovered_label=None if recovered is None else int(recovered[scores.source]),
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
            summary=_summary([image.scores for image in results], self.case.seed),
            summary_saved=_summary([image.scores_saved for image in results], self.case.seed),
            unavailable=dict(self.suite.unavailable),
            victim_accuracy=victim_accuracy(self.case.victim, self.prepared.defense),
            flags=self._flags(results),
            provenance=take_provenance(self.prepared.device, seconds),
        )

    def _flags(self, results: tuple[ImageResult, ...]) -> tuple[str, ...]:
        flags = {flag for image in results for flag in image.flags} | set(self.prepared.images.flags)
        if any(image.failure for image in results):
            flags.add("failed-images")
        if self.case.victim.weights == "random":
            flags.add("random-weights")
        return tuple(sorted(flags))


class _Channel(Progress):
    """The progress channel of one batch: it keeps the trace, and a checkpoint whenever the interval is over."""

    def __init__(
        self,
        checkpoint: Checkpoint | None,
        keep: Callable[[Checkpoint], None],
        show: Callable[[int, int, str, Mapping[str, float]], None],
        interruption: Interruption,
        interval: float,
    ) -> None:
        self.trace: list[TraceRow] = list(checkpoint.trace) if checkpoint else []
        self.seconds_before = checkpoint.seconds if checkpoint else 0.0
        self._state = checkpoint.state if checkpoint else None
        self._keep = keep
        self._show = show
        self._interruption = interruption
        self._interval = interval
        self._began = self._saved = time.perf_counter()

    def seconds(self) -> float:
        """Wall time of the attack so far, earlier sessions included."""
        return self.seconds_before + time.perf_counter() - self._began

    def report(self, step: int, total: int, phase: str, losses: Mapping[str, float]) -> None:
        values = {name: float(value) for name, value in losses.items()}
        self.trace.append((int(step), phase, values))
        self._show(step, total, phase, values)

    def save(self, state: Mapping[str, Any]) -> None:
        # Whoever saves once saves again soon, so from here on a signal can wait for the next time.
        self._interruption.deferrable = True
        due = time.perf_counter() - self._saved >= self._interval
        if due or self._interruption.requested is not None:
            self._keep(Checkpoint(state, tuple(self.trace), self.seconds()))
            self._saved = time.perf_counter()
            self._interruption.honour()

    def restore(self) -> Mapping[str, Any] | None:
        return self._state


def _file_names(images: list[str]) -> list[str]:
    stems = [re.sub(r"[^A-Za-z0-9.+_-]+", "-", name).lstrip(".") or "image" for name in images]
    # Names that differ only in characters that a file name cannot have, or in case, would overwrite each other.
    folded = Counter(stem.lower() for stem in stems)
    return [
        f"{RECONSTRUCTIONS}/{stem if folded[stem.lower()] == 1 else f'{stem}-{place}'}.png" for place, stem in enumerate(stems)
    ]


def _summary(scores: list[dict[str, float]], seed: int) -> dict[str, Interval]:
    return {name: bootstrap_interval([image[name] for image in scores], seed=seed) for name in scores[0]}


def _one_line(error: BaseException) -> str:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"[:300] if first else type(error).__name__
