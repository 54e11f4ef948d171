"""Schedules: the phases of GradViT as data."""

import pytest

from privbench.inversion import Constant, Cosine, Decay, TwoPhase


def test_halves_switches_after_half_of_the_steps() -> None:
    prior, matching = TwoPhase(0.0, 0.2), TwoPhase(4e-3, 2e-3)
    steps = 10
    on = [prior.at(step / steps) for step in range(steps)]
    assert on == [0.0] * 6 + [0.2] * 4  # t <= T/2 is the first half
    assert [matching.at(step / steps) for step in (0, 5, 6, 9)] == [4e-3, 4e-3, 2e-3, 2e-3]


def test_cosine_holds_then_falls_to_zero() -> None:
    rate = Cosine(0.1, hold=0.5)
    assert rate.at(0.0) == rate.at(0.5) == 0.1
    assert rate.at(0.75) == pytest.approx(0.05)
    assert rate.at(1.0) == pytest.approx(0.0)
    assert Cosine(0.1).at(0.5) == pytest.approx(0.05)


def test_decay_goes_in_equal_ratios_and_takes_zero() -> None:
    assert Decay(1.0, 0.01).at(0.5) == pytest.approx(0.1)
    assert Decay(1.0, 0.0).at(0.5) == pytest.approx(0.5)
    assert Constant(3.0).at(0.9) == 3.0
