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
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs, with all parameters.")
def list_components(kind: str, name: str | None, as_json: bool) -> None:
    """List what can be named, a line each: attacks, ensembles of attacks, defenses, models, metrics or datasets.

    With NAME, such as `privbench list attacks gradvit`: its card and its parameters.
    """
    listed = entries(kind)
    if name is not None:
        from privbench.core import unknown_name

        listed = [entry for entry in listed if entry.name == name]
        if not listed:
            raise unknown_name(kind.removesuffix("s"), name, [entry.name for entry in entries(kind)])
    if as_json:
        click.echo(json.dumps([asdict(entry) for entry in listed], indent=2))
    elif name is None:
        _print_lines(kind, listed)
    else:
        _print_card(kind, listed[0])


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


def _print_lines(kind: str, listed: list[Entry]) -> None:
    from rich.table import Table
    from rich.text import Text

    from privbench.cli.console import results_console

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True, min_width=max(len(entry.name) for entry in listed))
    table.add_column(no_wrap=True, overflow="ellipsis")
    for entry in listed:
        table.add_row(entry.name, Text(entry.summary))
    results_console().print(table)
    if any(entry.parameters or entry.presets for entry in listed):
        click.echo(f"privbench list {kind} NAME shows a card with parameters")


def _print_card(kind: str, entry: Entry) -> None:
    """The card as its author wrote it, then guarantee, presets and parameters."""
    from rich import box
    from rich.markdown import Markdown
    from rich.table import Table
    from rich.text import Text

    from privbench.cli.console import results_console

    console = results_console()
    card = _card(kind, entry.name)
    console.print(Markdown(card) if card else Text(f"{entry.name}: {entry.summary}"))
    if entry.guarantee is not None:
        click.echo(f"\nGuarantee: {entry.guarantee}")
    for name, values in entry.presets.items():
        inside = ", ".join(f"{key}={value}" for key, value in values.items())
        console.print(Text(f"preset {name}" + (f": {inside}" if inside else ""), style="cyan"))
    if entry.parameters:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("parameter", style="bold", no_wrap=True)
        for heading in ("default", "type", "meaning"):
            table.add_column(heading)
        for parameter in entry.parameters:
            default = "required" if parameter.required else "" if parameter.default is None else str(parameter.default)
            table.add_row(parameter.name, default, Text(parameter.type), Text(parameter.description))
        console.print(table)


def _card(kind: str, name: str) -> str | None:
    """The card of an attack or a defense, which lies in `cards/` beside its module; None where there is none."""
    from importlib.resources import files

    from privbench.core import ATTACKS, DEFENSES, UserError

    registry = {"attacks": ATTACKS, "defenses": DEFENSES}.get(kind)
    if registry is None:
        return None
    package = registry.origin(name).partition(":")[0].rpartition(".")[0]
    try:
        path = files(package) / "cards" / f"{name}.md"
        return path.read_text(encoding="utf-8")
    except (ImportError, OSError, ValueError, UserError):
        return None
