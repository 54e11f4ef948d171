"""The benchmarks compare what they say they compare: one objective, one optimiser, fair turns."""

import importlib.util
import sys
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from benchmarks import compilers
from benchmarks.baseline import PeerRun, run_plain, total_variation
from benchmarks.flops import step_flops
from benchmarks.ours import WARM_UP, Problem, run_ours
from benchmarks.peer import run_breaching
from benchmarks.timing import alternate
from benchmarks.victims import problems_of
from privbench.core import UserError
from privbench.models import Victim

SETTINGS: dict[str, Any] = {"learning_rate": 0.03, "variation": 0.2}


@pytest.fixture(scope="module")
def attacked() -> tuple[Victim, list[Problem]]:
    return problems_of("vit_mini_patch4_32", 1, 2, torch.device("cpu"))


def _plain(model: Victim, one: Problem, steps: int) -> PeerRun:
    return run_plain(model, one.gradients, one.labels, one.start, steps=steps, **SETTINGS)


@pytest.mark.nightly
def test_the_engine_and_the_baseline_take_the_same_steps(attacked: tuple[Victim, list[Problem]]) -> None:
    model, problems = attacked
    steps = WARM_UP + 10
    together = run_ours(model, problems, compile="off", steps=steps, **SETTINGS)
    for one, run in zip(problems, together, strict=True):
        plain = _plain(model, one, steps)
        assert (run.images - one.start).abs().max() > 0.1
        # Rounding grows from step to step; another objective would part by tenths.
        assert (run.images - plain.images).abs().max() < 5e-3


@pytest.mark.integration
def test_steps_are_timed_after_a_short_warm_up_and_not_where_no_clock_is_read(attacked: tuple[Victim, list[Problem]]) -> None:
    model, (one, _) = attacked
    (run,) = run_ours(model, [one], compile="off", steps=11, warm_up=10, **SETTINGS)
    assert run.steps == 11
    assert 0 < run.seconds < 11 * 60
    for warm_up, steps in ((4, 8), (10, 10), (0, 10)):
        with pytest.raises(UserError, match="a multiple of 10 below"):
            run_ours(model, [one], compile="off", steps=steps, warm_up=warm_up, **SETTINGS)


@pytest.mark.skipif(importlib.util.find_spec("breaching") is None, reason="breaching is not installed (extra bench)")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("signed", [False, True])
def test_breaching_and_the_baseline_take_the_same_step(attacked: tuple[Victim, list[Problem]], signed: bool) -> None:
    model, (one, _) = attacked
    state = torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    arguments = (model, one.gradients, one.labels, one.start)
    theirs = run_breaching(*arguments, steps=1, signed=signed, **SETTINGS)
    plain = run_plain(*arguments, steps=1, signed=signed, **SETTINGS)
    assert torch.allclose(theirs.images, plain.images, atol=1e-5)
    assert not torch.equal(theirs.images, one.start)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_breaching_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch, attacked: tuple[Victim, list[Problem]]) -> None:
    model, (one, _) = attacked
    monkeypatch.setitem(sys.modules, "breaching", None)
    with pytest.raises(UserError, match=r"install privbench\[bench\]"):
        run_breaching(model, one.gradients, one.labels, one.start, steps=1, **SETTINGS)


def test_the_variation_of_a_constant_image_is_that_of_its_border() -> None:
    images = torch.full((1, 3, 8, 16), 0.5)
    assert torch.allclose(total_variation(images), torch.tensor(0.5 * (8 + 16) / (8 * 16)))


def test_operations_are_counted_from_the_model(attacked: tuple[Victim, list[Problem]]) -> None:
    model, (one, _) = attacked
    flops = step_flops(model, one.gradients, one.labels, one.start)
    width, tokens, depth = 192, 65, 3
    forward = depth * 2 * tokens * 12 * width**2
    assert 7 * forward < flops < 9 * forward
    two: list[Tensor] = [torch.cat([value, value]) for value in (one.labels, one.start)]
    assert step_flops(model, one.gradients, *two) == pytest.approx(2 * flops, rel=0.01)


def test_competitors_take_turns_and_the_first_call_does_not_count() -> None:
    calls: list[str] = []

    def measure(name: str, values: list[float]) -> float:
        calls.append(name)
        return values[calls.count(name) - 1]

    slow, fast = [100.0, 4, 4, 4, 8, 4], [50.0, 2, 1, 2, 2, 2]
    found = alternate({"slow": lambda: measure("slow", slow), "fast": lambda: measure("fast", fast)}, reference="slow")
    assert calls[:6] == ["slow", "fast", "slow", "fast", "fast", "slow"]
    assert found["fast"].ratio == 2
    assert list(found["fast"].ratio_range) == [2, 4]
    assert found["slow"].median == 4


@pytest.mark.parametrize(("reference", "repetitions"), [("other", 5), ("slow", 3)])
def test_a_median_of_few_rounds_or_an_unknown_reference_is_refused(reference: str, repetitions: int) -> None:
    with pytest.raises(UserError):
        alternate({"slow": lambda: 1.0}, reference=reference, repetitions=repetitions)


def test_an_unknown_way_of_running_a_step_is_one_line() -> None:
    result = CliRunner().invoke(compilers.main, ["--group", "1", "--only", "recorded", "--only", "fast"])
    assert result.exit_code == 2
    assert "unknown way 'fast'; choose one of double backward, as it stands, recorded," in result.output
    assert "ms per step" not in result.output
