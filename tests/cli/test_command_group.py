"""The group answers quickly, says what there is, and turns every mistake into one line and exit code 2."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from privbench import __version__
from privbench.cli.group import LazyGroup
from privbench.core import UserError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["-h"], ["run", "--help"], ["leaderboard", "--help"], ["list", "-h"]]
)
def test_help_and_version_do_not_import_torch(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from privbench.cli import main\n"
        f"main({arguments!r}, standalone_mode=False)\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'rich', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def test_the_help_lists_the_commands(privbench: Callable[..., Result]) -> None:
    answer = privbench("--help")
    assert answer.exit_code == 0
    for name in ("run", "list", "leaderboard", "train"):
        assert f"\n  {name} " in answer.stdout


def test_the_version(privbench: Callable[..., Result]) -> None:
    assert privbench("--version").stdout == f"privbench, version {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rnu"], ["unknown command 'rnu'", "did you mean run", "leaderboard"]),
        (["--verson"], ["--verson"]),
        (["run", "--defence", "mjp"], ["--defence", "--defense"]),
        (["run", "--seed", "one"], ["--seed", "'one' is not a valid whole number"]),
        (["run", "--adversary", "blind"], ["'blind' is not one of 'unaware', 'aware', 'oracle'"]),
        (["run", "--checkpoint-interval", "-1"], ["--checkpoint-interval"]),
        (["run", "--compile", "yes"], ["--compile", "'yes' is not one of 'auto', 'on', 'off'"]),
        (["run", "--precision", "bf16"], ["--precision", "'bf16' is not one of 'fp32', 'tf32'"]),
        (["run", "--group", "0"], ["--group", "'0' is neither 'auto' nor a number of at least 1"]),
        (["run", "--group", "-2"], ["--group", "'-2'"]),
        (["run", "--group", "many"], ["--group", "'many' is neither 'auto' nor"]),
        (["run", "--group", "1.5"], ["--group", "'1.5'"]),
        (["run", "surplus"], ["surplus"]),
        (["list", "attack"], ["'attack' is not one of 'attacks'"]),
        (["leaderboard"], ["Missing argument 'FOLDER'"]),
    ],
)
def test_mistakes_in_the_words_are_one_line(arguments: list[str], words: list[str], privbench: Callable[..., Result]) -> None:
    answer = privbench(*arguments)
    assert answer.exit_code == 2
    assert answer.stdout == ""
    (line,) = answer.stderr.splitlines()
    assert line.startswith("Error: ")
    for word in words:
        assert word in line


def test_users_errors_are_one_line_and_other_errors_stay_errors() -> None:
    @click.command()
    @click.argument("what")
    def failing(what: str) -> None:
        raise UserError("two\nlines") if what == "user" else ValueError("a bug")

    group = LazyGroup(name="group", commands_at={"failing": (f"{__name__}:failing_command", "Fails.")})
    globals()["failing_command"] = failing
    answer = CliRunner().invoke(group, ["failing", "user"])
    assert (answer.exit_code, answer.stderr) == (2, "Error: two lines\n")
    answer = CliRunner().invoke(group, ["failing", "bug"])
    assert isinstance(answer.exception, ValueError)
    assert not isinstance(answer.exception, UserError)
