"""What can be named: attacks, ensembles, defenses, models, metrics, data sets and loggers, with their parameters and cards."""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from privbench.core.errors import UserError, unknown_name

if TYPE_CHECKING:
    from privbench.conformance import Finding
    from privbench.core import Registry

__all__ = [
    "KINDS",
    "Entry",
    "Kind",
    "Parameter",
    "check",
    "component",
    "component_card",
    "components",
    "json_schema",
    "summaries",
]

Kind = Literal["attacks", "ensembles", "defenses", "models", "metrics", "datasets", "loggers"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Parameter:
    """One hyper-parameter.

    Attributes:
        name: As written on the command line.
        type: Its type or its choices.
        default: Its default, None where it must be given or may be left out.
        required: Whether it must be given.
        description: What it does.
    """

    name: str
    type: str
    default: Any
    required: bool
    description: str


@dataclass(frozen=True)
class Entry:
    """One component.

    Attributes:
        name: The registered name.
        summary: What it is, in one line.
        parameters: Its hyper-parameters.
        presets: Named parameter sets of an attack; the first one is the default.
        guarantee: What a defense promises at its defaults; None for everything else.
    """

    name: str
    summary: str
    parameters: tuple[Parameter, ...] = ()
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    guarantee: str | None = None


def components(kind: Kind) -> list[Entry]:
    """What is registered of a kind, with what installed packages add; what cannot be imported says why.

    Args:
        kind: `attacks`, `ensembles`, `defenses`, `models`, `metrics`, `datasets` or `loggers`.
    """
    return [_entry_or_reason(kind, name) for name in _registry(kind).names()]


def component(kind: Kind, name: str) -> Entry:
    """One of them; where it cannot be imported its summary says why.

    Raises:
        UserError: There is no such name.
    """
    names = _registry(kind).names()
    if name not in names:
        raise unknown_name(kind.removesuffix("s"), name, names)
    return _entry_or_reason(kind, name)


def summaries(kind: Kind) -> dict[str, str]:
    """Every name of a kind and what it is in one line; built-in attacks, defenses and so on are not imported for it."""
    return {name: _summary(kind, name) for name in _registry(kind).names()}


def _summary(kind: Kind, name: str) -> str:
    registry = _registry(kind)
    if kind in {"ensembles", "loggers"} or not registry.is_built_in(name):
        return _entry_or_reason(kind, name).summary
    said = registry.declared(name)
    return _metric_line(**said.values) if kind == "metrics" else said.summary


def _entry_or_reason(kind: Kind, name: str) -> Entry:
    """A component; one that cannot be imported is a line that says why, and not the end of the list."""
    try:
        return _DESCRIBED[kind](name)
    except UserError as error:
        return Entry(name, f"not available: {error}")


def _registry(kind: str) -> "Registry":
    from privbench import core

    registry: Registry = getattr(core, kind.upper())
    return registry


def _attack(name: str) -> Entry:
    return _component(name, _registry("attacks").get(name))


def _ensemble(name: str) -> Entry:
    ensemble = _registry("ensembles").get(name)
    members = f"{', '.join(ensemble.attacks)}; an image counts as recovered from {ensemble.recovered:g} dB of PSNR on."
    return Entry(name, f"{ensemble.summary} Attacks, in this order: {members}")


def _defense(name: str) -> Entry:
    from privbench.core import ComponentSpec
    from privbench.core.labels import guarantee_text

    return replace(_component(name, _registry("defenses").get(name)), guarantee=guarantee_text([ComponentSpec(name=name)]))


def _model(name: str) -> Entry:
    return Entry(name, _registry("models").get(name).summary)


def _metric(name: str) -> Entry:
    from privbench.scoring import registered_metric

    metric = registered_metric(name)
    return Entry(name, _metric_line(metric.summary, higher_is_leakier=metric.higher_is_leakier, unit=metric.unit))


def _metric_line(summary: str, *, higher_is_leakier: bool, unit: str = "", **_: Any) -> str:
    direction = "Higher means leakier." if higher_is_leakier else "Lower means leakier."
    return " ".join(filter(None, (summary, f"[{unit}]" if unit else "", direction)))


def _dataset(name: str) -> Entry:
    return Entry(name, _first_line(_registry("datasets").get(name)))


def _logger(name: str) -> Entry:
    return Entry(name, _first_line(sys.modules[_registry("loggers").get(name).__module__]))


_DESCRIBED: Mapping[str, Callable[[str], Entry]] = {
    "attacks": _attack,
    "ensembles": _ensemble,
    "defenses": _defense,
    "models": _model,
    "metrics": _metric,
    "datasets": _dataset,
    "loggers": _logger,
}


def _component(name: str, component: Any) -> Entry:
    defaults = component.model_json_schema().get("properties", {})
    parameters = []
    for key, info in component.model_fields.items():
        required = info.is_required()
        parameters.append(
            Parameter(
                name=key,
                type=_type_text(defaults.get(key, {})),
                default=None if required else _plain(info.get_default(call_default_factory=True)),
                required=required,
                description=" ".join((info.description or "").split()),
            )
        )
    presets = {preset: dict(values) for preset, values in getattr(component, "presets", {}).items()}
    return Entry(name, _first_line(component), tuple(parameters), presets)


def _type_text(schema: Mapping[str, Any]) -> str:
    """A JSON schema in a few words: `number from 0 to 1`, `linear | nonlinear`."""
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if "anyOf" in schema:
        return " | ".join(_type_text(option) for option in schema["anyOf"] if option.get("type") != "null")
    words = [schema.get("type", "value")]
    for key, word in (("minimum", "from"), ("exclusiveMinimum", "above"), ("maximum", "to"), ("exclusiveMaximum", "below")):
        if key in schema:
            words.append(f"{word} {schema[key]:g}")
    return " ".join(words)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _first_line(thing: Any) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0]


def component_card(kind: str, name: str) -> str | None:
    """The card of an attack or a defense, which lies in `cards/` beside its module; None where there is none."""
    from importlib.resources import files

    from privbench.core import ATTACKS, DEFENSES

    registry = {"attacks": ATTACKS, "defenses": DEFENSES}.get(kind)
    if registry is None:
        return None
    package = registry.origin(name).partition(":")[0].rpartition(".")[0]
    try:
        path = files(package) / "cards" / f"{name}.md"
        return path.read_text(encoding="utf-8")
    except (ImportError, OSError, ValueError, UserError):
        return None


def check(name: str, kind: str | None = None) -> "tuple[str, Iterator[Finding]]":
    """Checks an attack or a defense against the rules of its kind.

    Args:
        name: `NAME` or `NAME:KEY=VALUE,...`, registered in this process or by an entry point of an installed package.
        kind: `attack` or `defense`, where both have the name.

    Returns:
        The kind, and what each rule comes to, checked as the iterator is asked.

    Raises:
        UserError: There is no such component, two have the name, or it cannot be imported or configured.
    """
    from privbench.conformance import check_component

    return check_component(name, kind)


def json_schema(kind: str) -> str:
    """The JSON Schema (draft 2020-12) of the files of one kind, such as `record`.

    Raises:
        UserError: There is no such kind.
    """
    from privbench.api.schema import json_schema as schema

    return schema(kind)
