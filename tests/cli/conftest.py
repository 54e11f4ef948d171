"""The command line in this process, with the test attacks registered."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from privbench.cli import main
from tests.run.plugin.privbench_test_plugin import registered


@pytest.fixture(autouse=True)
def test_attacks() -> Iterator[None]:
    """The test attacks and their victim are registered, and one thread is used, as long as a test runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with registered():
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def privbench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Runs a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="privbench")

    return invoke


@pytest.fixture
def small_run(privbench: Callable[..., Result]) -> Callable[..., Result]:
    """`privbench run` with a fast attack on a small random victim, two photos, into the folder `out`."""

    def run(*arguments: str) -> Result:
        victim = ("--model", "test-vit", "--weights", "random")
        fast = ("--attack", "test-walk", *victim, "--limit", "2", "--no-download", "--device", "cpu")
        return privbench("run", *fast, "--output", "out", *arguments)

    return run
