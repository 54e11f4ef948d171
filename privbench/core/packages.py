"""Packages that only some commands need: asked for before the work, not after it."""

from collections.abc import Iterable
from importlib.util import find_spec

from privbench.core.errors import UserError

__all__ = ["require_packages"]


def require_packages(what: str, packages: Iterable[str], extra: str) -> None:
    """Refuses to begin where a package is missing; nothing is imported.

    Args:
        what: What needs them, at the begin of the message.
        packages: Names as they are imported.
        extra: The extra of this package that brings them.

    Raises:
        UserError: One is not installed.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UserError(f"{what} needs {', '.join(missing)}; install it with pip install 'privbench[{extra}]'")
