"""Where the components of a case come from that are not built in: distribution, version, and a hash of their source."""

import hashlib
import importlib
import inspect
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path

from privbench.core import ATTACKS, DATASETS, DEFENSES, ENSEMBLES, METRICS, MODELS, Case, PluginOrigin, Registry

__all__ = ["plugins_of"]


def plugins_of(case: Case, metrics: Iterable[str]) -> tuple[PluginOrigin, ...]:
    """The components of a case that somebody else wrote.

    Args:
        case: The case.
        metrics: What it was scored by.
    """
    members = case.attack.parameters.get("members") or ()
    used: list[tuple[Registry, str]] = [
        (ENSEMBLES if case.attack.name in ENSEMBLES.names() else ATTACKS, case.attack.name),
        *((ATTACKS, str(member["name"])) for member in members),
        *((DEFENSES, part.name) for part in case.defense),
        (MODELS, case.victim.model.name),
        (DATASETS, case.data.source),
        *((METRICS, name) for name in metrics),
    ]
    # Models of timm and folders of images are registered nowhere.
    known = [(registry, name) for registry, name in dict.fromkeys(used) if name in registry.names()]
    return tuple(_origin(registry, name) for registry, name in known if not registry.is_built_in(name))


def _origin(registry: Registry, name: str) -> PluginOrigin:
    target = registry.origin(name)
    point = next((point for point in entry_points(group=registry.group) if point.name == name), None)
    distribution = point.dist if point is not None else None
    return PluginOrigin(
        kind=registry.kind,
        name=name,
        target=target,
        distribution=distribution.name if distribution else None,
        version=distribution.version if distribution else None,
        source_sha256=_source_sha256(target.partition(":")[0]),
    )


def _source_sha256(module: str) -> str | None:
    """Of the file of a module; None where there is none, as of a notebook's cell."""
    try:
        found = inspect.getsourcefile(importlib.import_module(module))
        return None if found is None else hashlib.sha256(Path(found).read_bytes()).hexdigest()
    except (ImportError, TypeError, OSError):
        return None
