"""`privbench leaderboard` writes what `privbench.analysis.leaderboard` makes."""

from collections.abc import Callable
from pathlib import Path

from click.testing import Result

from privbench.analysis.leaderboard import leaderboard, leaderboard_csv
from privbench.analysis.overview import overview


def test_a_leaderboard_of_runs(small_run: Callable[..., Result], privbench: Callable[..., Result], tmp_path: Path) -> None:
    small_run("--defense", "none,naive-shuffle")
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
