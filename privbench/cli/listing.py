"""`privbench list`: what can be named on the command line, with its parameters."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import click

__all__ = ["Entry", "Parameter", "entries", "list_components"]


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


@click.command(name="list")
@click.argument("kind", type=click.Choice(["attacks", "ensembles", "defenses", "models", "metrics", "datasets"]))
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def list_components(kind: str, as_json: bool) -> None:
    """List what can be named: attacks, ensembles of attacks, defenses, models, metrics or datasets, with parameters."""
    listed = entries(kind)
    if as_json:
        click.echo(json.dumps([asdict(entry) for entry in listed], indent=2))
        return
    _print(kind, listed)


def entries(kind: str) -> list[Entry]:
    """What is registered of a kind: `attacks`, `ensembles`, `defenses`, `models`, `metrics` or `datasets`."""
    return [_entry_or_reason(name, describe) for name, describe in _ENTRIES[kind]()]


def _entry_or_reason(name: str, describe: Callable[[str], Entry]) -> Entry:
    """A component; one that cannot be imported is a line that says why, and not the end of the list."""
    from privbench.core import UserError

    try:
        return describe(name)
    except UserError as error:
        return Entry(name, f"not available: {error}")


_Described = list[tuple[str, Callable[[str], Entry]]]


def _attacks() -> _Described:
    from privbench.core import ATTACKS

    return [(name, lambda name: _component(name, ATTACKS.get(name))) for name in ATTACKS.names()]


def _ensembles() -> _Described:
    from privbench.core import ENSEMBLES

    def describe(name: str) -> Entry:
        ensemble = ENSEMBLES.get(name)
        members = f"{', '.join(ensemble.attacks)}; an image counts as recovered from {ensemble.given_away:g} dB of PSNR on."
        return Entry(name, f"{ensemble.summary} Attacks, in this order: {members}")

    return [(name, describe) for name in ENSEMBLES.names()]


def _defenses() -> _Described:
    from privbench.core import DEFENSES, ComponentSpec
    from privbench.core.labels import guarantee_text

    def describe(name: str) -> Entry:
        return replace(_component(name, DEFENSES.get(name)), guarantee=guarantee_text([ComponentSpec(name=name)]))

    return [(name, describe) for name in DEFENSES.names()]


def _models() -> _Described:
    from privbench.core import MODELS

    return [(name, lambda name: Entry(name, MODELS.get(name).summary)) for name in MODELS.names()]


def _metrics() -> _Described:
    from privbench.core import METRICS
    from privbench.scoring import registered_metric

    def describe(name: str) -> Entry:
        metric = registered_metric(name)
        direction = "Higher means leakier." if metric.higher_is_leakier else "Lower means leakier."
        return Entry(name, " ".join(filter(None, (metric.summary, f"[{metric.unit}]" if metric.unit else "", direction))))

    return [(name, describe) for name in METRICS.names()]


def _datasets() -> _Described:
    from privbench.core import DATASETS

    return [(name, lambda name: Entry(name, _first_line(DATASETS.get(name)))) for name in DATASETS.names()]


_ENTRIES: Mapping[str, Callable[[], _Described]] = {
    "attacks": _attacks,
    "ensembles": _ensembles,
    "defenses": _defenses,
    "models": _models,
    "metrics": _metrics,
    "datasets": _datasets,
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


def _print(kind: str, entries: list[Entry]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from privbench.cli.console import results_console

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(kind, style="bold", no_wrap=True)
    table.add_column("")
    for entry in entries:
        table.add_row(entry.name, Text(entry.summary))
        if entry.guarantee is not None:
            table.add_row("", Text(f"Guarantee: {entry.guarantee}", style="italic"))
        for name, values in entry.presets.items():
            inside = ", ".join(f"{key}={value}" for key, value in values.items())
            table.add_row("", Text(f"preset {name}" + (f": {inside}" if inside else ""), style="cyan"))
        for parameter in entry.parameters:
            given = "optional" if parameter.default is None else f"default {parameter.default}"
            default = "required" if parameter.required else given
            line = f"{parameter.name} ({parameter.type}, {default})"
            table.add_row("", Text(f"{line}: {parameter.description}" if parameter.description else line))
    results_console().print(table)
