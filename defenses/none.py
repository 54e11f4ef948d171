"""No defense: the client sends the plain gradient. The reference row of every comparison."""

from typing import ClassVar

from privbench.core import Defense

__all__ = ["NoDefense"]


class NoDefense(Defense):
    """No defense: the plain gradient of the plain forward pass."""

    name: ClassVar[str] = "none"

    def guarantee(self) -> str:
        """Promises nothing."""
        return "Promises nothing."
