"""Fair timing on a machine that is not quiet: competitors take turns, and what is compared was measured one after the other.

A drift of the clock rate or of the load then meets all of them alike, and a ratio is formed within a round before the median
is taken over the rounds.
"""

import csv
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from privbench.core import UserError

__all__ = ["LEAST_REPETITIONS", "Machine", "Timing", "alternate", "append_rows", "clock", "machine", "timed"]

LEAST_REPETITIONS = 5
"""A median of fewer rounds is not reported."""


@dataclass(frozen=True)
class Timing:
    """What the rounds of one competitor gave.

    Attributes:
        name: The competitor.
        seconds: What its measure returned, one value per round.
        ratios: Seconds of the reference divided by its own, one value per round; above 1 it is faster than the reference.
    """

    name: str
    seconds: tuple[float, ...]
    ratios: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median seconds over the rounds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Distance between the quartiles of the seconds divided by their median; 0.1 means 10 %."""
        lower, _, upper = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (upper - lower) / self.median

    @property
    def ratio(self) -> float:
        """Median over the rounds of how many times faster than the reference."""
        return statistics.median(self.ratios)

    @property
    def ratio_range(self) -> tuple[float, float]:
        """Smallest and largest ratio of a round."""
        return min(self.ratios), max(self.ratios)


def alternate(
    measures: Mapping[str, Callable[[], float]], *, reference: str, repetitions: int = LEAST_REPETITIONS
) -> dict[str, Timing]:
    """Measures competitors in turn.

    Each is called once to warm up (compilation, kernel choice, caches); that value is thrown away. Then come the rounds; each
    round calls every competitor once and starts with another one than the round before.

    Args:
        measures: Competitors by name; a call does the work and returns the seconds that count, set-up excluded (`timed` makes
            such a call of any function).
        reference: The competitor that ratios are formed with.
        repetitions: Number of rounds.

    Returns:
        One timing per competitor, in the order given.

    Raises:
        UserError: The reference is not among the competitors, or the rounds are too few for a median.
    """
    if reference not in measures:
        raise UserError(f"reference {reference!r} is not measured; choose one of {', '.join(measures)}")
    if repetitions < LEAST_REPETITIONS:
        raise UserError(f"{repetitions} repetitions are too few for a median; ask for {LEAST_REPETITIONS} or more")
    names = list(measures)
    for measure in measures.values():
        measure()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repetition in range(repetitions):
        first = repetition % len(names)
        for name in names[first:] + names[:first]:
            # Double backward leaves reference cycles; nobody pays for the rubbish of the one before.
            gc.collect()
            seconds[name].append(measures[name]())
    return {
        name: Timing(name, tuple(own), tuple(other / value for other, value in zip(seconds[reference], own, strict=True)))
        for name, own in seconds.items()
    }


def timed(work: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """A measure of the whole of `work`, until the device has finished it."""

    def measure() -> float:
        started = clock(device)
        work()
        return clock(device) - started

    return measure


def clock(device: torch.device) -> float:
    """Seconds of a monotonic clock, read once everything queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@dataclass(frozen=True)
class Machine:
    """Where numbers were measured.

    Attributes:
        device: Name of the GPU; of the processor where the CPU computes.
        processor: Name of the processor and its vector instructions.
        cores: Logical cores that this process may use.
        threads: Threads that torch uses.
        torch: Version of torch.
    """

    device: str
    processor: str
    cores: int
    threads: int
    torch: str


def machine(device: torch.device) -> Machine:
    """Describes this machine."""
    processor = f"{_processor()} ({torch.backends.cpu.get_cpu_capability()})"
    return Machine(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else processor,
        processor=processor,
        cores=_cores(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


def _processor() -> str:
    description = Path("/proc/cpuinfo")
    if description.is_file():
        for line in description.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def append_rows(path: Path | None, rows: Sequence[Mapping[str, str]], threads: int) -> None:
    """Appends rows of a table to a CSV file, with the machine they were measured on; without a path nothing is written."""
    if path is None:
        return
    described = machine(torch.device("cpu"))
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        extra = {"machine": described.device, "torch": described.torch, "threads": str(threads)}
        writer = csv.DictWriter(file, [*extra, *rows[0]], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(extra | dict(row) for row in rows)
