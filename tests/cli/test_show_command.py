"""`privbench show HASH` finds a case in any folder that was written to below this one, or says where it looked."""

from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Cli = Callable[..., Result]


def test_a_hash_is_found_in_whatever_folder_was_written_to(finished: Path, privbench: Cli, tmp_path: Path) -> None:
    finished.rename(tmp_path / "deep-down")
    for folder in (tmp_path / "deep-down").glob("*--*"):
        shown = privbench("show", folder.name.rpartition("--")[2][:8])
        assert shown.exit_code == 0, shown.output
        assert f"deep-down/{folder.name}" in shown.stdout


def test_where_a_hash_was_looked_for_is_said(privbench: Cli, tmp_path: Path) -> None:
    answer = privbench("show", "0123abcd")
    assert answer.exit_code == 2
    assert f"no case '0123abcd' in results, nor in any folder below {tmp_path}" in answer.stderr
    assert answer.stderr.count("\n") == 1
