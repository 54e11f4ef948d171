"""A finished case computed once more: does its record hold on this machine and version?"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from privbench.core import ComputeOptions, Record
from privbench.runner.context import Here, load_case
from privbench.runner.ensemble import run
from privbench.runner.listener import Listener
from privbench.runner.suites import Suites

__all__ = ["CAP", "TOLERANCES", "Check", "Verification", "verify"]

TOLERANCES: Mapping[str, float] = {"psnr": 0.5, "psnr_patch": 0.5, "ssim": 0.02, "ssim_patch": 0.02, "lpips": 0.02}
"""How far a mean may lie from the recorded one, in the metric's unit. Optimisation multiplies rounding: two machines, or two
versions of torch, differ by up to half a decibel in the mean (docs/research/benchmarks.md)."""
CAP = 60.0
"""dB above which PSNR says nothing but how large the last rounding errors were: higher values count as this."""


@dataclass(frozen=True)
class Check:
    """One metric of both computations.

    Attributes:
        metric: Its name.
        recorded: The mean in the record.
        computed: The mean now; None where it cannot be computed here.
        tolerance: What they may differ by.
    """

    metric: str
    recorded: float
    computed: float | None
    tolerance: float

    @property
    def holds(self) -> bool | None:
        """Whether both agree; None where it cannot be told."""
        if self.computed is None:
            return None
        return abs(self._capped(self.recorded) - self._capped(self.computed)) <= self.tolerance

    def _capped(self, value: float) -> float:
        return min(value, CAP) if self.metric.startswith("psnr") else value


@dataclass(frozen=True)
class Verification:
    """A record beside the same case computed again.

    Attributes:
        record: The record.
        checks: One for each metric with a tolerance.
        equal: Whether every score of every image is equal to the last bit.
    """

    record: Record
    checks: tuple[Check, ...]
    equal: bool

    @property
    def wrong(self) -> tuple[str, ...]:
        """The metrics that differ by more than their tolerance."""
        return tuple(check.metric for check in self.checks if check.holds is False)


def verify(
    record: Record,
    *,
    scratch: Path,
    compute: ComputeOptions,
    suites: Suites,
    listener: Listener,
    factor: float = 1.0,
    here: Here | None = None,
) -> Verification:
    """Computes a case again and compares.

    Args:
        record: The record to verify.
        scratch: An empty folder for the new case.
        compute: Where; how is taken from the record.
        suites: What to score by.
        listener: Who watches.
        factor: Multiplies the tolerances.
        here: Where the case's files lie; None: where the case says.

    Raises:
        UserError: Data or weights of the case, or LPIPS's, are not here, or not the same.
    """
    suites.require_trunk(record.lpips_weights_sha256)
    made = record.provenance
    compute = replace(
        compute,
        compile=made.compile,  # type: ignore[arg-type]
        precision=made.precision,  # type: ignore[arg-type]
        group=made.group if not record.members else None,
    )
    context = load_case(record.case, compute.device, here)
    again = run(record.case, output=scratch, listener=listener, suites=suites, compute=compute, context=context)
    checks = tuple(
        Check(name, record.summary[name].mean, again.summary[name].mean if name in again.summary else None, limit * factor)
        for name, limit in TOLERANCES.items()
        if name in record.summary
    )
    equal = all(
        now.scores.get(name) == value
        for before, now in zip(record.images, again.images, strict=True)
        for name, value in before.scores.items()
    )
    return Verification(record, checks, equal)
