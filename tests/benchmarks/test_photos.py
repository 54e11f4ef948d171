"""The lengths of runs that get equal time, and a row of each side."""

import importlib.util
import time

import pytest

from benchmarks.attacks import updates
from benchmarks.photos import rows, steps_within
from privbench.scoring.suite import metric_suite


def _busy(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_as_many_steps_as_the_time_allows_beside_the_set_up() -> None:
    steps = steps_within(1.0, lambda count: _busy(0.2 + 0.02 * count))
    assert 30 <= steps <= 50  # 40 by the clock of the processor
    assert steps_within(0.01, lambda count: _busy(0.02 * count)) == 1


@pytest.mark.skipif(importlib.util.find_spec("breaching") is None, reason="breaching is not installed (extra bench)")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_row_for_each_side() -> None:
    found = list(rows(updates(1), 0.5, metric_suite(patch_size=None)))
    assert [row[1] for row in found] == ["breaching, invertinggradients", "inverting-gradients", "adjoint-matching"]
    assert all(int(row[2]) >= 1 and float(row[4]) > 5 and 0 < float(row[5]) < 1.5 for row in found)
