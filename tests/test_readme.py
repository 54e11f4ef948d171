"""The commands of the README work word for word in a clone."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from privbench.cli import main

ROOT = Path(__file__).parents[1]


def commands() -> list[str]:
    """The lines of the code block under "Eight commands"."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.partition("## Eight commands")[2].partition("```sh\n")[2].partition("```")[0]
    return [re.sub(r"\s+#.*", "", line) for line in block.strip().splitlines()]


def test_there_are_eight() -> None:
    assert len(commands()) == 8
    assert all(command.startswith("privbench ") for command in commands())


@pytest.mark.nightly
def test_they_work_in_a_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "results", tmp_path / "results", ignore=shutil.ignore_patterns("runs"))
    monkeypatch.chdir(tmp_path)
    for command in commands():
        done = CliRunner().invoke(main, shlex.split(command)[1:])
        assert done.exit_code == 0, f"{command}\n{done.output}"
    assert (tmp_path / "leaderboard.csv").stat().st_size > 0
    assert (tmp_path / "front.pdf").read_bytes().startswith(b"%PDF")
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")
