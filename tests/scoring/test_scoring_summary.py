"""The interval behind each mean."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from privbench.core import Interval
from privbench.scoring import bootstrap_interval, student_interval, summary


def test_it_is_deterministic_and_depends_on_the_seed() -> None:
    values = [11.2, 9.5, 30.1, 12.0, 15.5, 8.7, 22.3]
    first = bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) == first
    assert bootstrap_interval(values, seed=4) != first
    assert first.mean == pytest.approx(sum(values) / 7)
    assert first.n == 7
    assert min(values) < first.low < first.mean < first.high < max(values)


def test_global_random_state_is_left_alone() -> None:
    before = repr(np.random.get_state())  # noqa: NPY002
    bootstrap_interval([1.0, 2.0, 4.0], seed=0)
    assert repr(np.random.get_state()) == before  # noqa: NPY002


@pytest.mark.parametrize("values", [[12.5], [150.0] * 4, [0.0, 0.0], [0.1 + 0.2] * 3])
def test_constant_values_are_their_own_interval(values: Sequence[float]) -> None:
    value = values[0]
    assert bootstrap_interval(values, seed=0) == Interval(mean=value, low=value, high=value, n=len(values))


@pytest.mark.parametrize(
    "values", [[1.0, 1.0 + 2**-52], [0.3, math.nextafter(0.3, 1), 0.3], [1e-300, 0.0, 0.0], [0, 0, 0, 150.0]]
)
def test_nearly_constant_values_stay_ordered_and_finite(values: Sequence[float]) -> None:
    interval = bootstrap_interval(values, seed=0)
    assert interval.low <= interval.mean <= interval.high
    assert all(math.isfinite(bound) for bound in (interval.low, interval.high))


def test_a_large_sample_has_the_normal_interval() -> None:
    """95 %, neither one standard error nor 99 %."""
    sample = np.random.default_rng(1).normal(20, 3, size=2000)
    interval = bootstrap_interval(sample.tolist(), seed=0)
    half = 1.96 * sample.std() / math.sqrt(2000)
    assert (interval.high - interval.low) / 2 == pytest.approx(half, rel=0.05)


@pytest.mark.parametrize(("size", "least", "most"), [(30, 0.89, 0.985), (8, 0.78, 0.95)])
def test_it_covers_the_true_mean_about_as_often_as_it_says(
    size: int, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """95 % for a few dozen images; fewer for a handful, as the docstring says."""
    monkeypatch.setattr(summary, "RESAMPLES", 999)
    random = np.random.default_rng(0)
    hits = 0
    for seed in range(300):
        interval = bootstrap_interval(random.normal(15, 4, size=size).tolist(), seed=seed)
        hits += interval.low <= 15 <= interval.high
    assert least < hits / 300 < most


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [1.0, float("inf")], [[1.0], [2.0]]])
def test_what_has_no_mean_is_refused(values: Sequence[float]) -> None:
    with pytest.raises(ValueError, match="an interval over values"):
        bootstrap_interval(values, seed=0)


def test_a_few_runs_have_students_interval() -> None:
    # Quantiles of 2 and 4 degrees of freedom from printed tables.
    three, five = student_interval([1.0, 2.0, 3.0]), student_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (three.mean, three.n, five.mean, five.n) == (2, 3, 3, 5)
    assert three.high - three.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert five.mean - five.low == pytest.approx(2.776445 * math.sqrt(2.5) / math.sqrt(5), rel=1e-6)
    alone = student_interval([0.5])
    assert (alone.mean, alone.low, alone.high, alone.n) == (0.5, 0.5, 0.5, 1)
    for wrong in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="finite values"):
            student_interval(wrong)
