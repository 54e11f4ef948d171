"""`privbench sweep`, `status` and `show`, as a user meets them."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result

Cli = Callable[..., Result]

STUDY = """
name: small
settings: {attack: test-walk, model: test-vit, weights: random, limit: 2}
grid:
  - {defense: [none, mjp], seed: [0, 1]}
"""


@pytest.fixture
def sweep(privbench: Cli, tmp_path: Path) -> Cli:
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    fast = ("--no-download", "--device", "cpu", "--output", "out")
    return lambda *arguments: privbench("sweep", "study.yaml", *fast, *arguments)


def test_it_computes_all_cases_and_a_repeated_command_none(sweep: Cli, privbench: Cli) -> None:
    answer = sweep()
    assert answer.exit_code == 0, answer.output
    assert "4 of 4 cases done; out" in answer.stdout
    assert "3 of 4 done, 1 waiting" in answer.stderr
    again = sweep()
    assert again.exit_code == 0
    assert "running" not in again.stderr
    board = privbench("leaderboard", "out", "-o", "board.csv")
    assert board.exit_code == 0, board.output
    assert len(pd.read_csv("board.csv")) == 4


def test_shards_make_up_the_study(sweep: Cli, privbench: Cli) -> None:
    assert "2 of 2 cases done" in sweep("--shard", "1/2").stdout
    assert privbench("status", "out").stdout.splitlines()[-1] == "2 cases: 2 done"
    assert "2 of 2 cases done" in sweep("--shard", "2/2").stdout
    assert "4 of 4 cases done" in sweep().stdout


def test_a_dry_run_lists_and_computes_nothing(sweep: Cli, tmp_path: Path) -> None:
    answer = sweep("--dry-run", "--limit", "1")
    assert answer.exit_code == 0
    lines = answer.stdout.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["waiting"] * 4
    assert lines[4] == "4 cases of 4 combinations"
    assert not (tmp_path / "out").exists()


def test_a_failed_case_is_told_kept_and_tried_again_on_request(sweep: Cli, privbench: Cli) -> None:
    answer = sweep("--set", "attack.largest_batch=0")
    assert answer.exit_code == 1
    assert answer.stdout.count("takes at most 0 images") == 4
    assert "0 of 4 cases done, 4 failed (--retry-failed tries them again)" in answer.stdout
    status = privbench("status", "out")
    assert status.stdout.count("failed   out/") == 4
    assert status.stdout.splitlines()[-1] == "4 cases: 4 failed"
    name = status.stdout.split("out/")[1].split(":")[0]
    assert "failed at" in privbench("show", f"out/{name}").stdout
    assert sweep("--set", "attack.largest_batch=0").stderr == ""
    assert "failed:" in sweep("--set", "attack.largest_batch=0", "--retry-failed").stderr


def test_show_prints_numbers_flags_and_how_to_repeat(sweep: Cli, privbench: Cli, tmp_path: Path) -> None:
    sweep("--shard", "1/4")
    (path,) = [path.parent for path in (tmp_path / "out").glob("*/record.json")]
    by_folder, by_hash = privbench("show", f"out/{path.name}"), privbench("show", path.name[-12:-4], "--output", "out")
    assert by_folder.exit_code == by_hash.exit_code == 0, by_hash.output
    assert by_folder.stdout == by_hash.stdout
    for words in (
        "mean, n = 2",
        "final losses, means: mean 0.",
        "flags: random-weights",
        f"--config out/{path.name} --force",
    ):
        assert words in by_folder.stdout
    (path / "trace.csv").write_text("changed")
    assert f"damaged: out/{path.name}/trace.csv" in privbench("show", f"out/{path.name}").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shard", "3/2"], "is no shard; accepted: I/N"),
        (["--shard", f"1/{'9' * 5000}"], "is no shard; accepted: I/N"),
        (["--budget", "9" * 5000], "is no time; accepted: 90s"),
        (["--shard", "9/9"], "has no case; choose fewer shards"),
        (["--budget", "soon"], "is no time; accepted: 90s, 30m, 2h or 1d"),
        (["--set", "seed"], "accepted: KEY=VALUE"),
        (["--set", "sead=1"], "unknown setting 'sead'"),
        (["--address", "auto"], "add --launcher ray"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(sweep: Cli, arguments: list[str], words: str) -> None:
    answer = sweep(*arguments)
    assert answer.exit_code == 2
    assert words in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("status", "absent"), "there is no folder absent"),
        (("status", "."), "there is no case"),
        (("show", "abc"), "no case 'abc' in results"),
    ],
)
def test_what_is_not_there_is_said(privbench: Cli, arguments: tuple[str, ...], words: str) -> None:
    answer = privbench(*arguments)
    assert answer.exit_code == 2
    assert words in answer.stderr
