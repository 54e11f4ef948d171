"""A wall clock that jumps.

Whatever happens, the next sweep of the same study ends with what an undisturbed one writes.
"""

import datetime
import time

import pytest

from privbench.store.case_folder import CaseFolder
from privbench.sweep.work import SweepOptions
from privbench.sweep.workers import BudgetUsedError, run_inline
from tests.sweep.faults import (
    Noting,
    Small,
)


def test_a_wall_clock_that_jumps_changes_neither_times_nor_intervals(
    small_case: Small, options: SweepOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It jumps by ten years at every look, back and forth."""
    looks = iter(range(10**9))

    def jumping() -> float:
        return 1.8e9 + (3e8 if next(looks) % 2 else -3e8)

    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Jumping":
            return cls.fromtimestamp(jumping(), tz)

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(time, "time_ns", lambda: int(jumping() * 1e9))
    monkeypatch.setattr("privbench.runner.provenance.datetime", Jumping)
    case = small_case(settings=("attack.steps=10", "attack.pause=0.02"))
    began = time.monotonic()
    run_inline([case], options, Noting(), budget=60.0)
    spent = time.monotonic() - began
    record = CaseFolder(options.store.working, case).record()
    assert record is not None
    assert next(looks) > 0
    assert all(0.2 <= image.seconds <= spent for image in record.images)
    assert 0.4 <= record.provenance.seconds <= spent

    slow = small_case(limit=1, settings=("attack.steps=1000", "attack.pause=0.05"))
    began = time.monotonic()
    with pytest.raises(BudgetUsedError):
        run_inline([slow], options, Noting(), budget=1.0)
    assert 1.0 <= time.monotonic() - began < 30
