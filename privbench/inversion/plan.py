"""The settings of all steps, on the device before the first one, so that no step waits for the host."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from privbench.inversion.step import StepSettings
from privbench.inversion.variables import Variable

__all__ = ["Plan", "SettingsLayout", "settings_at"]


@dataclass(frozen=True)
class SettingsLayout:
    """Where each setting stands in one row of numbers, which is what a recorded step takes.

    Attributes:
        variables: Names of the variables that move.
        terms: Names of the active terms.
    """

    variables: tuple[str, ...]
    terms: tuple[str, ...]

    def row(self, settings: Mapping[str, Mapping[str, float]]) -> list[float]:
        """Settings by field of `StepSettings` and name, as a row."""
        fields = ("rates", "first_corrections", "second_corrections")
        return [settings[field][name] for field in fields for name in self.variables] + [
            settings["weights"][name] for name in self.terms
        ]

    def settings(self, row: Tensor) -> StepSettings:
        """The settings that a row holds."""
        numbers = iter(row.unbind())
        rates, first, second = ({name: next(numbers) for name in self.variables} for _ in range(3))
        return StepSettings(rates, first, second, {name: next(numbers) for name in self.terms})


def settings_at(
    step: int, steps: int, variables: Mapping[str, Variable], weights: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """The settings of one step, by field of `StepSettings` and name.

    Args:
        step: Which step, from 0.
        steps: How many there are.
        variables: Every variable by name.
        weights: Of the active terms at this step.
    """
    moved = {name: one.optimiser for name, one in variables.items() if one.optimiser is not None}
    return {
        "rates": {name: adam.learning_rate.at(step / steps) for name, adam in moved.items()},
        "first_corrections": {name: 1 - adam.first_moment ** (step + 1) for name, adam in moved.items()},
        "second_corrections": {name: 1 - adam.second_moment ** (step + 1) for name, adam in moved.items()},
        "weights": dict(weights),
    }


class Plan:
    """The rows of all steps.

    Args:
        steps: Settings of each step, as `settings_at` has them.
        like: Gives device and precision.
    """

    def __init__(self, steps: Sequence[Mapping[str, Mapping[str, float]]], like: Tensor) -> None:
        rows: dict[SettingsLayout, list[list[float]]] = {}
        self._places: list[tuple[SettingsLayout, int]] = []
        for settings in steps:
            layout = SettingsLayout(tuple(settings["rates"]), tuple(settings["weights"]))
            same = rows.setdefault(layout, [])
            self._places.append((layout, len(same)))
            same.append(layout.row(settings))
        self._tables = {layout: torch.tensor(same, dtype=like.dtype, device=like.device) for layout, same in rows.items()}

    @property
    def counts(self) -> dict[tuple[str, ...], int]:
        """Number of steps with each set of active terms."""
        return {layout.terms: len(table) for layout, table in self._tables.items()}

    def at(self, step: int) -> tuple[SettingsLayout, Tensor]:
        """Layout and row of a step."""
        layout, place = self._places[step]
        return layout, self._tables[layout][place]
