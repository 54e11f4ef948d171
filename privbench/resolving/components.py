"""From the text of `--attack` and `--defense`, and their `--set`, to resolved components: lists, parameters, presets."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from privbench.core import (
    ATTACKS,
    DEFENSES,
    ENSEMBLES,
    Attack,
    Case,
    ComponentSpec,
    Ensemble,
    Spec,
    UserError,
    ensemble_members,
    parse_spec,
    resolve_defense,
    unknown_name,
)
from privbench.resolving.overrides import Overrides

__all__ = ["resolve_attacks", "resolve_defenses", "split_names"]

DefenseSpecs = tuple[ComponentSpec, ...]
"""The parts of one composed defense."""


def split_names(text: str, option: str = "--defense") -> list[str]:
    """Splits a comma list of components, in which a comma also separates the parameters of one of them.

    A chunk with `=` and no `:` before it continues the one before: `none,mjp:mask_ratio=0.27,dal_weight=0,no-pe` are three.

    Args:
        text: What the user wrote.
        option: Where, for the error.

    Raises:
        UserError: An entry is empty, or the list starts with a parameter.
    """
    found: list[str] = []
    for chunk in text.split(","):
        if not chunk.strip():
            raise UserError(f"an empty entry in {option} '{text[:200]}'; accepted: NAME,NAME:KEY=VALUE,...")
        continues = "=" in chunk and ":" not in chunk.partition("=")[0]
        if continues and not found:
            raise UserError(f"{option} '{text[:200]}' starts with a parameter; accepted: NAME,NAME:KEY=VALUE,...")
        if continues:
            found[-1] += f",{chunk.strip()}"
        else:
            found.append(chunk.strip())
    return found


# Attacks


def resolve_attacks(chosen: Overrides, base: Case | None) -> list[ComponentSpec]:
    """The attacks, or those of a case to start from, with what `--set` changes in each that has such a parameter.

    Raises:
        UserError: A name, a parameter or a preset is not accepted.
    """
    default = base.attack.name if base else "adjoint-matching"
    specs = [parse_spec(text) for text in split_names(chosen.text("attack", default), "--attack")]
    if len(specs) > 1:
        _require_meant(chosen.attack, specs)
    return [_attack(chosen, spec, _meant(chosen.attack, spec, alone=len(specs) == 1), base) for spec in specs]


def _fields(spec: Spec) -> set[str]:
    return set() if spec.name in ENSEMBLES.names() else set(ATTACKS.get(spec.name).model_fields)


def _meant(settings: Mapping[str, str], spec: Spec, *, alone: bool) -> dict[str, str]:
    """The settings for one of several attacks; the only one gets all, and says itself what it does not know."""
    return {key: value for key, value in settings.items() if alone or key in _fields(spec)}


def _require_meant(settings: Mapping[str, str], specs: Sequence[Spec]) -> None:
    known = {key for spec in specs for key in _fields(spec)}
    for key in settings:
        if key not in known:
            raise unknown_name("setting", f"attack.{key}", [f"attack.{name}" for name in known])


def _attack(chosen: Overrides, spec: Spec, settings: Mapping[str, str], base: Case | None) -> ComponentSpec:
    if spec.name in ENSEMBLES.names():
        return _ensemble(chosen, spec, settings, base)
    twice = next((key for key in settings if key in spec.parameters), None)
    if twice:
        raise UserError(f"attack.{twice} is given twice, by --set and by --attack; keep one")
    component: type[Attack] = ATTACKS.get(spec.name)
    given = {**spec.parameters, **settings}
    if base and not chosen.has("attack", "preset"):
        attack = component.configured({**base.attack.parameters, **given})
    else:
        attack = component.from_preset(chosen.values.get("preset"), given)
    return ComponentSpec(name=spec.name, parameters=attack.parameters())


def _ensemble(chosen: Overrides, spec: Spec, settings: Mapping[str, str], base: Case | None) -> ComponentSpec:
    """An ensemble takes no parameters; the one of a case file must be of this version."""
    given = [*spec.parameters, *(f"attack.{key}" for key in settings), *(["preset"] if chosen.has("preset") else [])]
    if given:
        raise UserError(
            f"ensemble {spec.name} takes no parameters (given: {', '.join(given)}), so that its numbers compare; "
            "run one of its attacks alone to change it"
        )
    if base and not chosen.has("attack"):
        ensemble_members(base)
    return cast(Ensemble, ENSEMBLES.get(spec.name)).spec(spec.name)


# Defenses


def resolve_defenses(chosen: Overrides, base: Case | None) -> list[DefenseSpecs]:
    """The composed defenses, or those of a case to start from, with what `--set` changes.

    Raises:
        UserError: A name or a parameter is not accepted, or it is not clear which defense a setting means.
    """
    if base and not chosen.has("defense"):
        # Parameters that a case file leaves out are filled in.
        defenses = [tuple(_configured(part.name, part.parameters) for part in base.defense)]
    else:
        defenses = [resolve_defense(text) for text in split_names(chosen.text("defense", "mjp"))]
    for key, value in chosen.defense.items():
        defenses = _with_setting(defenses, key, value)
    return defenses


def _configured(name: str, parameters: Mapping[str, Any]) -> ComponentSpec:
    return ComponentSpec(name=name, parameters=DEFENSES.get(name).configured(parameters).parameters())


def _with_setting(defenses: list[DefenseSpecs], key: str, value: str) -> list[DefenseSpecs]:
    """Applies `defense.KEY=VALUE`, or `defense.NAME.KEY=VALUE`, to each defense that has this parameter."""
    name, dot, parameter = key.rpartition(".")

    def means(part: ComponentSpec) -> bool:
        return parameter in part.parameters and (not dot or part.name == name)

    if not any(means(part) for defense in defenses for part in defense):
        known = {
            f"defense.{part.name}.{one}" if dot else f"defense.{one}"
            for defense in defenses
            for part in defense
            for one in part.parameters
        }
        raise unknown_name("setting", f"defense.{key}", known)
    for defense in defenses:
        meant = [f"defense.{part.name}.{parameter}" for part in defense if means(part)]
        if len(meant) > 1:
            raise UserError(f"--set defense.{key} means more than one defense; write {' or '.join(meant)}")
    return [
        tuple(_configured(part.name, {**part.parameters, parameter: value}) if means(part) else part for part in defense)
        for defense in defenses
    ]
