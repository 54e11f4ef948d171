"""How an attack is computed, as against what it computes: settings that change speed and rounding, never the method."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

__all__ = ["Compile", "ComputeOptions", "Precision"]

Compile = Literal["auto", "on", "off"]
Precision = Literal["fp32", "tf32"]


@dataclass(frozen=True)
class ComputeOptions:
    """Settings of the machine side of a case, from the command line to the engine.

    They are recorded with the result and are no part of a case's identity. An attack looks at `compile`, `precision` and
    `expected_groups` alone: where it computes is where its observations lie, and how many come together is for its caller.

    Attributes:
        devices: Where to compute, at least one, all of one type: the client on the first, groups of attacks on all of them.
        group: How many client batches are attacked together; None: what suits attack and device.
        compile: `on` compiles the step, `off` does not, `auto` does where the time saved exceeds the time it takes.
        precision: Of float32 matrix products on CUDA: `fp32`, or `tf32` (10 bits of mantissa in the factors).
        threads: CPU threads; None leaves them as they are.
        checkpoint_interval: Seconds between checkpoints at least.
        isolate: Whether each attack runs in a process of its own, from a saved observation.
        expected_groups: How many groups like this one the caller expects to attack, so that compilation is shared.
    """

    devices: tuple[torch.device, ...] = (torch.device("cpu"),)
    group: int | None = None
    compile: Compile = "auto"
    precision: Precision = "fp32"
    threads: int | None = None
    checkpoint_interval: float = 20.0
    expected_groups: int = 1
    isolate: bool = False

    @property
    def device(self) -> torch.device:
        """The first device: where clients and scores are computed."""
        return self.devices[0]

    @contextmanager
    def cpu_threads(self) -> Iterator[None]:
        """Holds the number of CPU threads for a block, and puts it back."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)
