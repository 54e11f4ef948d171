"""What a benchmark's user got wrong is one line and exit code 2."""

import importlib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks.command import Benchmark, BenchmarkGroup

BENCHMARKS = sorted(path.stem for path in (Path(__file__).parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name not in {"__init__", "command", "peer"}])
def test_every_command_of_a_benchmark_says_its_errors_in_one_line(name: str) -> None:
    command = getattr(importlib.import_module(f"benchmarks.{name}"), "main", None)
    if isinstance(command, click.Group):
        assert isinstance(command, BenchmarkGroup)
        assert all(isinstance(one, Benchmark) for one in command.commands.values())
    elif isinstance(command, click.Command):
        assert isinstance(command, Benchmark)


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        ("relative_noise", ["--data", "nowhere", "-o", "made.csv"], "nowhere"),
        ("batches", ["--data", "photos", "--first", "0", "--attack", "nothing", "-o", "made.csv"], "nothing"),
    ],
)
def test_what_a_user_got_wrong_is_one_line(
    module: str, arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(importlib.import_module(f"benchmarks.{module}").main, arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.output
