"""The contract of loggers: experiment trackers that a run reports to, such as TensorBoard."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from privbench.core.packages import require_packages

__all__ = ["Logger"]


class Logger(ABC):
    """One run in a tracker: a case that is attacked, or a victim that is trained. Building it begins the run there.

    Args:
        run: Name of the run.
        folder: Where files of this kind of logger go; it need not exist.
        settings: What is run, by dotted names such as `attack.name`.
    """

    name: ClassVar[str]
    """As on the command line."""
    packages: ClassVar[tuple[str, ...]] = ()
    """What it imports, as it is imported."""
    extra: ClassVar[str] = ""
    """The extra of privbench that brings the packages."""

    @classmethod
    def require(cls) -> None:
        """Refuses before the work begins where a package is missing.

        Raises:
            UserError: One is not installed.
        """
        require_packages(f"--log {cls.name}", cls.packages, cls.extra)

    @abstractmethod
    def __init__(self, run: str, folder: Path, settings: Mapping[str, str | int | float | bool]) -> None: ...

    @property
    @abstractmethod
    def where(self) -> str:
        """Where to look at the run, in a few words."""

    @abstractmethod
    def values(self, part: str, step: int, values: Mapping[str, float]) -> None:
        """Takes the losses of a step.

        Args:
            part: Which part of the run, such as `image-1`.
            step: Number of the step; it rises within a part.
            values: By name.
        """

    @abstractmethod
    def picture(self, part: str, step: int, image: Tensor) -> None:
        """Takes the guess at a private image, `[3, height, width]` uint8; other arguments as of `values`."""

    @abstractmethod
    def end(self, summary: Mapping[str, float]) -> None:
        """Ends the run.

        Args:
            summary: Scores by name; empty where the run was interrupted or failed.
        """
