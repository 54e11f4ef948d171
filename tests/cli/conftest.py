"""The command line in this process, with the test attacks registered."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from privbench.cli import main
from tests.runner.plugin.privbench_test_plugin import registered


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


@pytest.fixture(scope="session")
def kept_runs() -> dict[tuple[str, ...], Path]:
    """Results of earlier tests by what they were asked for; nobody writes into them."""
    return {}


@pytest.fixture
def finished_run(
    small_run: Callable[..., Result],
    kept_runs: dict[tuple[str, ...], Path],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Path]:
    """The folder `out` of a `small_run`: computed once for all tests that ask for the same, a copy for each."""

    def finished(*arguments: str) -> Path:
        folder = tmp_path / "out"
        if (kept := kept_runs.get(arguments)) is not None:
            shutil.copytree(kept, folder)
            return folder
        answer = small_run(*arguments)
        assert answer.exit_code == 0, answer.output
        kept_runs[arguments] = shutil.copytree(folder, tmp_path_factory.mktemp("kept") / "out")
        return folder

    return finished


@pytest.fixture
def finished(finished_run: Callable[..., Path]) -> Path:
    """Two cases of two photos in `out`."""
    return finished_run("--defense", "none,mjp")
