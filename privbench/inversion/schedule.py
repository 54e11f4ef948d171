"""Weights over the course of an attack, as data: GradViT's schedule is two steps, others are constants or decays.

Progress runs from 0 (first step) to 1 (end).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

__all__ = ["Constant", "Cosine", "Decay", "From", "Milestones", "Scaled", "Schedule", "TwoPhase", "Warmup"]


class Schedule(ABC):
    """A weight as a function of progress."""

    @abstractmethod
    def at(self, progress: float) -> float:
        """The weight at `progress` in [0, 1)."""


@dataclass(frozen=True)
class Constant(Schedule):
    """The same weight throughout."""

    value: float

    def at(self, progress: float) -> float:
        """The weight at `progress`."""
        return self.value


@dataclass(frozen=True)
class TwoPhase(Schedule):
    """One weight up to and including half of the steps, another one after (GradViT's Γ and Υ)."""

    first: float
    second: float

    def at(self, progress: float) -> float:
        """The weight at `progress`."""
        return self.first if progress <= 0.5 else self.second


@dataclass(frozen=True)
class Decay(Schedule):
    """From one weight to another in equal ratios."""

    start: float
    end: float

    def at(self, progress: float) -> float:
        """The weight at `progress`."""
        if self.start == 0 or self.end == 0:
            return self.start + (self.end - self.start) * progress
        return self.start * math.pow(self.end / self.start, progress)


@dataclass(frozen=True)
class Cosine(Schedule):
    """A constant weight up to `hold`, then half a cosine down to 0."""

    peak: float
    hold: float = 0.0

    def at(self, progress: float) -> float:
        """The weight at `progress`."""
        if progress <= self.hold:
            return self.peak
        return self.peak * 0.5 * (1 + math.cos(math.pi * (progress - self.hold) / (1 - self.hold)))


@dataclass(frozen=True)
class Milestones(Schedule):
    """A weight that is multiplied by a factor at each of several points (the step decay of Inverting Gradients)."""

    start: float
    factor: float = 0.1
    points: tuple[float, ...] = (3 / 8, 5 / 8, 7 / 8)

    def at(self, progress: float) -> float:
        """The weight at `progress`."""
        return self.start * self.factor ** sum(progress >= point for point in self.points)


@dataclass(frozen=True)
class Warmup(Schedule):
    """Another schedule, scaled up linearly from 0 over the first share of the steps.

    Attributes:
        schedule: What is scaled.
        until: The share; 0 for none.
    """

    schedule: Schedule
    until: float

    def at(self, progress: float) -> float:
        """The weight at `progress`."""
        weight = self.schedule.at(progress)
        return weight * progress / self.until if progress < self.until else weight


@dataclass(frozen=True)
class Scaled(Schedule):
    """Another schedule, multiplied by a factor."""

    schedule: Schedule
    factor: float

    def at(self, progress: float) -> float:
        """The weight at `progress`."""
        return self.factor * self.schedule.at(progress)


@dataclass(frozen=True)
class From(Schedule):
    """Another schedule, and 0 before a share of the steps."""

    schedule: Schedule
    share: float

    def at(self, progress: float) -> float:
        """The weight at `progress`."""
        return self.schedule.at(progress) if progress > self.share else 0.0
