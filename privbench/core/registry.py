"""Registries: names to classes, filled by the built-ins and by entry points.

A registry knows the built-ins of its kind as `name -> "module:attribute"` (so that listing imports nothing heavy) and asks the
installed packages for entry points of its group. A name claimed twice is an error that names both claimants.
"""

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from privbench.core.declared import Declared, declared
from privbench.core.errors import UserError, unknown_name

__all__ = ["ATTACKS", "DATASETS", "DEFENSES", "ENSEMBLES", "LOGGERS", "METRICS", "MODELS", "SERVERS", "Registry"]


class Registry:
    """The components of one kind.

    Args:
        kind: The kind in the singular, for messages.
        group: Entry-point group of third-party components, such as `privbench.attacks`.
        built_in: Module that holds the built-in table `BUILT_IN: dict[str, str]` of this kind; imported at first use.
    """

    def __init__(self, kind: str, group: str, built_in: str) -> None:
        self.kind = kind
        self.group = group
        self._built_in = built_in
        self._table: dict[str, tuple[str, Callable[[], Any]]] | None = None

    def _targets(self) -> dict[str, tuple[str, Callable[[], Any]]]:
        if self._table is None:
            table: dict[str, tuple[str, Callable[[], Any]]] = {}
            built_in: Mapping[str, str] = importlib.import_module(self._built_in).BUILT_IN
            for name, target in built_in.items():
                table[name] = (target, lambda target=target: _load(target))  # type: ignore[misc]
            for point in entry_points(group=self.group):
                self._add(table, point.name, point.value, partial(self._load_plugin, point))
            self._table = table
        return self._table

    def _add(self, table: dict[str, tuple[str, Callable[[], Any]]], name: str, target: str, load: Callable[[], Any]) -> None:
        if name in table:
            raise UserError(f"{self.kind} '{name}' is registered twice: by {table[name][0]} and by {target}; rename one")
        table[name] = (target, load)

    def _load_plugin(self, point: EntryPoint) -> Any:
        try:
            return point.load()
        except Exception as error:  # a plug-in's module may raise anything
            package = point.dist.name if point.dist else "an unknown package"
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise UserError(
                f"{self.kind} '{point.name}' ({point.value}, of {package}) cannot be imported: {reason}; repair or uninstall "
                f"{package}"
            ) from None

    def names(self) -> list[str]:
        """The registered names, sorted."""
        return sorted(self._targets())

    def is_built_in(self, name: str) -> bool:
        """Whether a registered component is part of privbench itself."""
        return name in importlib.import_module(self._built_in).BUILT_IN

    def origin(self, name: str) -> str:
        """Where a component comes from, as `module:attribute`."""
        return self._entry(name)[0]

    def declared(self, name: str) -> Declared:
        """What a component says of itself; a built-in is not imported for it, where its source tells.

        Raises:
            UserError: As `get`.
        """
        found = declared(self.origin(name)) if self.is_built_in(name) else None
        return found or _said_by(self.get(name))

    def get(self, name: str) -> Any:
        """The component registered under a name.

        Raises:
            UserError: No such name (the message lists near misses and all names), or a plug-in that cannot be imported.
        """
        return self._entry(name)[1]()

    def register(self, name: str, component: Any) -> None:
        """Adds a component for the life of the process (notebooks, tests).

        Raises:
            UserError: The name is taken.
        """
        # A metric is an object, not a class: it has its class's name.
        attribute = getattr(component, "__qualname__", type(component).__qualname__)
        self._add(self._targets(), name, f"{component.__module__}:{attribute}", lambda: component)

    def unregister(self, name: str) -> None:
        """Takes a component out again."""
        self._entry(name)
        del self._targets()[name]

    def _entry(self, name: str) -> tuple[str, Callable[[], Any]]:
        table = self._targets()
        if name not in table:
            raise unknown_name(self.kind, name, table)
        return table[name]


def _said_by(component: Any) -> Declared:
    fields = getattr(component, "model_fields", {})
    summary = getattr(component, "summary", None) or (component.__doc__ or "").strip().partition("\n")[0]
    return Declared(str(summary), {key: info.default for key, info in fields.items() if not info.is_required()})


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


ATTACKS = Registry("attack", "privbench.attacks", "privbench.attacks")
ENSEMBLES = Registry("ensemble", "privbench.ensembles", "privbench.attacks.ensembles")
DEFENSES = Registry("defense", "privbench.defenses", "privbench.defenses")
METRICS = Registry("metric", "privbench.metrics", "privbench.scoring")
MODELS = Registry("model", "privbench.models", "privbench.models")
SERVERS = Registry("server", "privbench.servers", "privbench.servers")
DATASETS = Registry("dataset", "privbench.datasets", "privbench.data")
LOGGERS = Registry("logger", "privbench.loggers", "privbench.loggers")
