"""On a terminal a command says at once that it is at work, and nothing of that is left."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOADING, ERASED = "loading …", "\r\x1b[K"


def on_a_terminal(*arguments: str, piped: bool = False) -> tuple[str, str]:
    """What a command writes to a terminal, and to its standard output where that is a pipe."""
    command = [sys.executable, "-m", "privbench", *arguments]
    main, end = pty.openpty()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE if piped else end, stderr=end, stdin=end)
    os.close(end)
    shown = b""
    try:
        while part := os.read(main, 65536):
            shown += part
    except OSError:  # The other end is closed.
        pass
    finally:
        os.close(main)
    output, _ = process.communicate()
    assert process.returncode == 0, shown
    return shown.decode(), (output or b"").decode()


@pytest.mark.parametrize("piped", [False, True])
def test_the_word_comes_first_and_is_gone_before_anything_else(piped: bool) -> None:
    shown, output = on_a_terminal("list", "metrics", piped=piped)
    assert shown.startswith(LOADING + ERASED)
    rest = shown.removeprefix(LOADING + ERASED)
    assert LOADING not in rest
    assert "psnr" in (output if piped else rest)
    assert (rest == "") is piped


def test_a_quiet_command_and_a_help_text_say_nothing_of_it(tmp_path: Path) -> None:
    assert LOADING not in on_a_terminal("run", "--help")[0]
    fast = ("--defense", "none", "--attack", "closed-form", "--weights", "random", "--limit", "1", "--no-download")
    shown, output = on_a_terminal("run", *fast, "--quiet", "--output", str(tmp_path), piped=True)
    assert shown == ""
    assert "closed-form" in output
