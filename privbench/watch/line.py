"""The progress of a case as one line: on a terminal as wide as it is, in a notebook, which shows what rich draws."""

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from privbench.watch.position import Position, clock

__all__ = ["progress_line"]

_WIDE = 110
"""Where there are fewer columns, the line is shorter."""
_BAR = 20
_SHORT_NAME = 24
_SHORT_BAR = 10


def progress_line(where: Position, width: int) -> Table:
    """Which case, how far, how long; then losses and phase as far as there is room.

    Args:
        where: Where the case stands.
        width: Columns of the terminal.
    """
    line = Table.grid(padding=(0, 1), expand=True)
    if width < _WIDE:
        return _short(line, where)
    line.add_column(no_wrap=True)
    line.add_column(width=_BAR)
    for _ in range(3):
        line.add_column(no_wrap=True)
    line.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
    line.add_row(
        Text(where.label, style="bold"),
        ProgressBar(total=1.0, completed=where.fraction, width=_BAR),
        where.place,
        where.time_text,
        where.loss_text,
        Text(where.phase, style="cyan"),
    )
    return line


def _short(line: Table, where: Position) -> Table:
    line.add_column(no_wrap=True, overflow="ellipsis", max_width=_SHORT_NAME)
    line.add_column(width=_SHORT_BAR)
    line.add_column(no_wrap=True)
    line.add_column(no_wrap=True)
    line.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
    remaining = where.remaining
    line.add_row(
        Text(where.label, style="bold"),
        ProgressBar(total=1.0, completed=where.fraction, width=_SHORT_BAR),
        f"{where.step}/{where.total}",
        f"{clock(remaining)} left" if remaining is not None else clock(where.elapsed),
        Text.assemble(where.loss_text, "  ", (where.phase, "cyan")),
    )
    return line
