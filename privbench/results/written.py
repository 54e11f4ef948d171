"""`Written`: what a command that writes a file or a folder of files says of it."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Written"]


@dataclass(frozen=True)
class Written:
    """A file made of cases, or a folder of such files.

    Attributes:
        path: Where it is.
        cases: How many cases it is about, failed ones included.
        damaged: A line for each damaged file that was left out.
    """

    path: Path
    cases: int
    damaged: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes, of a folder those of all its files."""
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(file.stat().st_size for file in files if file.is_file())
