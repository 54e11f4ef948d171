"""What a benchmark's user got wrong is one line and exit code 2."""

import importlib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks import partial_updates
from benchmarks.command import Benchmark, BenchmarkGroup
from benchmarks.printed import print_table
from privbench.core import UserError

BENCHMARKS = sorted(path.stem for path in (Path(__file__).parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name not in {"__init__", "command", "peer"}])
def test_every_command_of_a_benchmark_says_its_errors_in_one_line(name: str) -> None:
    command = getattr(importlib.import_module(f"benchmarks.{name}"), "main", None)
    if isinstance(command, click.Group):
        assert isinstance(command, BenchmarkGroup)
        assert all(isinstance(one, Benchmark) for one in command.commands.values())
    elif isinstance(command, click.Command):
        assert isinstance(command, Benchmark)
    elif command is not None:
        assert command.__wrapped__.__name__ == "main"


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


def test_a_benchmark_that_reads_its_arguments_itself_does_so_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["partial_updates", "--data", "nowhere"])
    with pytest.raises(SystemExit) as ended:
        partial_updates.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("Error: ")
    assert "nowhere" in said
    assert len(said.splitlines()) == 1


def test_rows_that_were_measured_before_an_error_are_in_the_file(tmp_path: Path) -> None:
    def rows() -> Iterator[list[str]]:
        yield ["first", "1.0"]
        raise UserError("the second cannot be had")

    with pytest.raises(UserError):
        print_table(["name", "value"], rows(), tmp_path / "made.csv")
    assert (tmp_path / "made.csv").read_text(encoding="utf-8") == "name,value\nfirst,1.0\n"
