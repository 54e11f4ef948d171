"""Packages whose names are imported when they are first used, so that who asks for one does not wait for the others."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["imported_on_use"]


def imported_on_use(package: str, names: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__`.

    Args:
        package: Its name.
        names: Module of the package to the names that the package takes from it.
    """
    modules = {name: module for module, held in names.items() for name in held}

    def attribute(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(f"{package}.{modules[name]}"), name)
        setattr(sys.modules[package], name, found)
        return found

    return attribute, lambda: sorted({*vars(sys.modules[package]), *modules})
