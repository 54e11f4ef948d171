"""Numbers as options take them: whole or finite, within a range, and called so when they are refused."""

import math
from typing import Any

import click

__all__ = ["SEED", "THREADS", "Number", "WholeNumber"]


class WholeNumber(click.IntRange):
    """A whole number within a range; click calls one a "valid integer range" where a user wrote none."""

    name = "whole number"


class Number(click.FloatRange):
    """A finite number within a range; to click, nan is within every one and infinity within most."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Reads and checks it."""
        found: float = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is not a finite number; accepted: {self._describe_range()}.", param, ctx)
        return found


SEED = WholeNumber(min=0, max=2**31 - 1)
"""A seed, as a case takes it."""

THREADS = WholeNumber(min=1, max=1024)
"""CPU threads; OpenMP crashes where there is no memory for the stacks of more."""
