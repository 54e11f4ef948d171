"""What a command prints on a terminal of 80 columns, as a picture for the documentation.

    python -m benchmarks.terminal docs/tutorials/first-run.svg run --defense mjp --limit 1

The command runs in a pseudo-terminal in the present folder. Progress and notes, which go to stderr, are left out.
"""

import argparse
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

from benchmarks.command import one_line

COLUMNS = 80


def printed(arguments: list[str]) -> str:
    """What `privbench` with these arguments writes to a terminal.

    Raises:
        CalledProcessError: It failed.
    """
    main, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    command = [sys.executable, "-m", "privbench", *arguments]
    process = subprocess.Popen(command, stdout=end, stdin=end, stderr=subprocess.DEVNULL)
    os.close(end)
    content = b""
    try:
        while part := os.read(main, 65536):
            content += part
    except OSError:  # The other end is closed.
        pass
    os.close(main)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, command)
    return content.decode().replace("\r\n", "\n")


def picture(title: str, content: str) -> str:
    """The terminal as SVG that fetches nothing."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ {title}", style="bold"))
    console.print(Text.from_ansi(content.rstrip()))
    svg = console.export_svg(title="", unique_id="terminal")
    return re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL)


@one_line
def main() -> None:
    """Writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENT")
    given = parser.parse_args()
    title = " ".join(["privbench", *given.arguments])
    given.output.write_text(picture(title, printed(given.arguments)), encoding="utf-8")


if __name__ == "__main__":
    main()
