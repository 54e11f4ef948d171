"""Fixtures of all tests that compute cases: small, fast ones with test attacks, a small random victim and two photos."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from privbench.core import Case, ComputeOptions, Record
from privbench.resolving.options import RunOptions
from privbench.resolving.resolve import resolve_cases
from privbench.runner.execute import run_case
from privbench.runner.suites import Suites
from tests.runner.plugin.privbench_test_plugin import registered


@pytest.fixture(autouse=True)
def test_attacks() -> Iterator[None]:
    """The test attacks and their small victim are registered as long as a test runs."""
    with registered():
        yield


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The cases are too small for more, and equal numbers of threads give equal sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_case() -> Callable[..., Case]:
    """Resolves one small case; keywords are those of `RunOptions`."""

    def resolve(**options: Any) -> Case:
        defaults = {"attack": "test-walk", "defense": "none", "model": "test-vit", "weights": "random", "limit": 2}
        (case,) = resolve_cases(cast(RunOptions, {**defaults, **options}))
        return case

    return resolve


def _fixed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@pytest.fixture
def compute(tmp_path: Path) -> Callable[..., Record]:
    """Computes a case in `tmp_path`, on the CPU, without LPIPS, with a checkpoint at every step."""

    def run(case: Case, **how: Any) -> Record:
        named = {"devices", "group", "compile", "precision", "checkpoint_interval", "isolate"}
        compute = ComputeOptions(**{"checkpoint_interval": 0.0, **{key: _fixed(how.pop(key)) for key in named & how.keys()}})
        return run_case(case, **{"output": tmp_path, "suites": Suites(download=False), "compute": compute, **how})

    return run
