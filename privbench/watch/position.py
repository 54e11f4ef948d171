"""How far a case is, in words and numbers, and how long the rest will take: what displays and the live page show."""

import math
import time
from collections.abc import Mapping, Sequence
from statistics import fmean

from privbench.core import Case
from privbench.core.labels import defense_label
from privbench.runner.listener import StepReport

__all__ = ["Position", "case_label", "clock"]


def clock(seconds: float) -> str:
    """Seconds as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Position:
    """Where a case stands, and how long the rest will take at the pace so far.

    Args:
        case: The case.
        label: How the display calls it.
        batches: Number of client batches.
        finished: Which of them are finished already.
    """

    def __init__(self, case: Case, label: str, batches: int, finished: Sequence[int] = ()) -> None:
        self.case = case
        self.label = label
        self.batches = batches
        self.group: Sequence[int] = (0,)
        self.step = 0
        self.total = 1
        self.phase = ""
        self.losses: Mapping[str, float] = {}
        self._done = dict.fromkeys(finished, 1.0)
        self._began = time.perf_counter()
        self._start: float | None = None

    def moved(self, at: StepReport) -> None:
        """Takes a report of the attack on a group of batches."""
        self.group, self.step, self.total, self.phase = at.batches, at.step, max(at.total, 1), at.phase
        self.losses = _means(at.losses)
        self._done.update(dict.fromkeys(at.batches, min(at.step / self.total, 1.0)))
        if self._start is None:
            # A continued case does not begin at 0; the pace counts from here.
            self._start = self.fraction
            self._began = time.perf_counter()

    def scored(self, batch: int) -> None:
        """Takes the end of a batch, which an attack that fails reaches before its last step."""
        self._done[batch] = 1.0

    @property
    def fraction(self) -> float:
        """Share of the case that is done, in [0, 1]."""
        return sum(self._done.values()) / self.batches

    @property
    def elapsed(self) -> float:
        """Seconds in this session."""
        return time.perf_counter() - self._began

    @property
    def remaining(self) -> float | None:
        """Seconds to go, None before there is a pace."""
        done = self.fraction - (self._start or 0.0)
        return self.elapsed * (1 - self.fraction) / done if done > 0 else None

    @property
    def place(self) -> str:
        """Which images or batches of how many, and which step."""
        word, words = ("image", "images") if self.case.batch_size == 1 else ("batch", "batches")
        which = _ranges([batch + 1 for batch in self.group])
        return f"{word if len(self.group) == 1 else words} {which}/{self.batches}, step {self.step}/{self.total}"

    @property
    def loss_text(self) -> str:
        """The losses, means over the group, three digits each."""
        return "  ".join(f"{name} {value:.3g}" for name, value in self.losses.items())

    @property
    def time_text(self) -> str:
        """Elapsed and remaining time."""
        remaining = self.remaining
        return clock(self.elapsed) + (f", {clock(remaining)} left" if remaining is not None else "")


def _means(losses: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each loss over those that have it; one that failed does not hide the others."""
    means = {}
    for name in dict.fromkeys(name for mapping in losses for name in mapping):
        values = [mapping[name] for mapping in losses if name in mapping]
        finite = [value for value in values if math.isfinite(value)]
        means[name] = fmean(finite) if finite else values[0]
    return means


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as `1-3,5`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def case_label(case: Case) -> str:
    """A case by defense, attack and adversary."""
    return f"{defense_label(case)}, {case.attack.name} ({case.threat_model.adversary})"
