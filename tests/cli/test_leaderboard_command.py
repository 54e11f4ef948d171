"""`privbench leaderboard` writes what `privbench.analysis.leaderboard` makes."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from privbench.analysis.leaderboard import leaderboard, leaderboard_csv
from privbench.analysis.overview import overview
from privbench.core import Record
from tests.analysis.records import scored


def test_a_leaderboard_of_runs(finished_run: Callable[..., Path], privbench: Callable[..., Result], tmp_path: Path) -> None:
    finished_run("--defense", "none,naive-shuffle")
    answer = privbench("leaderboard", "out", "-o", "board/leaderboard.csv")
    assert answer.exit_code == 0, answer.exception
    assert answer.stdout == "2 cases -> board/leaderboard.csv\n"
    written = (tmp_path / "board" / "leaderboard.csv").read_bytes()
    assert written == leaderboard_csv(leaderboard(tmp_path / "out")).encode()
    again = privbench("leaderboard", "out")
    assert again.exit_code == 0
    assert (tmp_path / "leaderboard.csv").read_bytes() == written
    answer = privbench("leaderboard", "out", "-o", "board/overview.md")
    assert (answer.exit_code, answer.stdout) == (0, "2 cases -> board/overview.md\n")
    assert (tmp_path / "board" / "overview.md").read_text(encoding="utf-8") == overview(tmp_path / "out")


def test_tables_in_latex_have_the_least_leakage_in_bold(
    finished_run: Callable[..., Path], privbench: Callable[..., Result], tmp_path: Path
) -> None:
    finished_run("--defense", "none,naive-shuffle", "--model", "vit_mini_patch4_32")
    (path,) = (tmp_path / "out").glob("none--*/record.json")
    record = Record.load(path)
    path.write_text(scored(record, "psnr", [30.0] * len(record.images)).to_json(), encoding="utf-8")
    assert privbench("leaderboard", "out", "-o", "board.tex").exit_code == 0
    text = (tmp_path / "board.tex").read_text(encoding="utf-8")
    assert text.count("\\begin{tabular}") == text.count("\\toprule") == text.count("\\bottomrule") == 1
    rows = leaderboard(tmp_path / "out").sort_values("psnr_mean")
    best, other = rows["psnr_mean"].round(1)
    assert f"\\textbf{{{best}}}" in text
    assert f"\\textbf{{{other}}}" not in text
    assert "\\texttt{vit\\_mini\\_patch4\\_32}" in text
    assert "{\\scriptsize [" in text
    assert privbench("leaderboard", "out", "-o", "board.tex", "--no-intervals").exit_code == 0
    assert "scriptsize" not in (tmp_path / "board.tex").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["board.html", "board", "board.xlsx"])
def test_an_ending_that_says_nothing_is_refused_before_anything_is_read(
    name: str, privbench: Callable[..., Result], tmp_path: Path
) -> None:
    answer = privbench("leaderboard", "nowhere", "-o", name)
    assert answer.exit_code == 2
    assert answer.stderr.startswith(f"Error: cannot tell what {name} is to be; accepted endings: .csv")
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("command", ["leaderboard", "report"])
def test_damaged_files_are_left_out_on_request_and_named(
    command: str, finished_run: Callable[..., Path], privbench: Callable[..., Result], tmp_path: Path
) -> None:
    finished_run("--defense", "none,naive-shuffle,mjp")
    first, second, third = sorted((tmp_path / "out").glob("*/record.json"))
    first.write_bytes(first.read_bytes()[:-300])
    second.unlink()
    second.mkdir()
    (tmp_path / "out" / "utility--x.json").write_text("{}")
    refused = privbench(command, "out")
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1)
    answer = privbench(command, "out", "--skip-damaged")
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.startswith("1 cases")
    lines = answer.stderr.splitlines()
    assert len(lines) == 4
    for line, path in zip(lines, (first, second, tmp_path / "out" / "utility--x.json"), strict=False):
        assert line.startswith(f"left out: {path.relative_to(tmp_path)}")
    assert lines[-1] == "3 damaged files left out"
    assert third.is_file()
