"""How an attack is computed, as against what it computes: settings that change speed and rounding, never the method."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Execution"]


@dataclass(frozen=True)
class Execution:
    """Settings of the machine side of an attack; they are recorded with the result and stay out of a case's identity.

    Attributes:
        compile: `on` compiles the step, `off` does not, `auto` does where the time saved exceeds the time it takes.
        precision: Of float32 matrix products on CUDA: `fp32`, or `tf32` (10 bits of mantissa in the factors).
        runs: How many attacks like this one the caller expects to run, so that the cost of compilation is shared.
    """

    compile: Literal["auto", "on", "off"] = "auto"
    precision: Literal["fp32", "tf32"] = "fp32"
    runs: int = 1
