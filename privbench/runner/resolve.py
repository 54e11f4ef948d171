"""From what a user asks for to resolved cases, one per defense.

Three sources, the later one wins: the built-in defaults or a case from `--config`, the command-line options, and `--set
key=value`. The keys of `--set` are those of the case's YAML, so what a file shows is what can be set.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from privbench.core import (
    ATTACKS,
    DEFENSES,
    ENSEMBLES,
    Attack,
    Case,
    ComponentSpec,
    DataSpec,
    Ensemble,
    LocalTraining,
    Spec,
    ThreatModel,
    UserError,
    VictimSpec,
    build_defense,
    ensemble_members,
    parse_spec,
    resolve_defense,
    unknown_name,
)
from privbench.core.component import one_line
from privbench.data import open_images, select
from privbench.models import DEFAULT_MODEL, resolve_victim

__all__ = ["DEFAULT_LIMIT", "SETTINGS", "RunOptions", "parse_indices", "resolve_cases", "split_defenses"]

DEFAULT_LIMIT = 4
"""So many images are attacked where the user does not say."""

SETTINGS: Mapping[str, str] = {
    "attack": "attack",
    "defense": "defense",
    "victim.model.name": "model",
    "victim.model.num_classes": "num_classes",
    "victim.model.image_size": "image_size",
    "victim.weights": "weights",
    "data.source": "data",
    "data.split": "split",
    "data.limit": "limit",
    "data.indices": "indices",
    "batch_size": "batch_size",
    "threat_model.labels": "labels",
    "threat_model.model_mode": "model_mode",
    "threat_model.adversary": "adversary",
    "threat_model.training": "training",
    "threat_model.server": "server",
    "local": "local",
    "lpips": "lpips_net",
    "seed": "seed",
}
"""Keys of `--set`, beside `attack.PARAMETER` and `defense.PARAMETER`, and the option that each one means."""


@dataclass(frozen=True)
class RunOptions:
    """What a user asked for; None where nothing was said. Values may still be text, as `--set` gives them.

    Attributes:
        defense: Comma list of `name:key=value+name`.
        attack: `name:key=value`.
        preset: Named parameter set of the attack.
        model: A registered or timm name.
        weights: `embedded`, `random`, `pretrained` or a file.
        num_classes: Overrides the architecture's own.
        image_size: Overrides the architecture's own, in pixels.
        data: A registered data set or a path.
        split: Part of the data set.
        limit: How many images.
        indices: Which images: `0,3,5-7`.
        batch_size: Images per client update.
        labels: `recovered` or `known`.
        model_mode: `eval` or `train`.
        adversary: `unaware`, `aware` or `oracle`.
        training: `known` or `hidden`: whether the attacker is told how the client trained.
        server: `honest` or `malicious`.
        local: Local training: `OPTIMISER:steps=N,lr=RATE,...`, or `none`.
        lpips_net: `alex`, `vgg` or `squeeze`.
        seed: Seed of the case.
        config: A resolved case to start from.
        settings: `key=value` texts of `--set`.
    """

    defense: str | None = None
    attack: str | None = None
    preset: str | None = None
    model: str | None = None
    weights: str | None = None
    num_classes: int | str | None = None
    image_size: int | str | None = None
    data: str | None = None
    split: str | None = None
    limit: int | str | None = None
    indices: str | None = None
    batch_size: int | str | None = None
    labels: str | None = None
    model_mode: str | None = None
    adversary: str | None = None
    training: str | None = None
    server: str | None = None
    local: str | None = None
    lpips_net: str | None = None
    seed: int | str | None = None
    config: Path | None = None
    settings: tuple[str, ...] = ()


def resolve_cases(options: RunOptions) -> list[Case]:
    """Resolves every name, parameter, weight and image that the user asked for.

    Args:
        options: What was asked for.

    Returns:
        One case per defense, in the order given.

    Raises:
        UserError: A name, a key or a value is not accepted, or something does not fit.
    """
    chosen, attack_settings, defense_settings = _settings(options)
    base = None if options.config is None else Case.from_yaml(options.config)
    attack = _attack(chosen, attack_settings, base)
    defenses = _defenses(chosen, defense_settings, base)
    common = _common(chosen, base, ensemble=attack.name in ENSEMBLES.names())
    cases = []
    for defense in defenses:
        victim = _victim(chosen, defense, base)
        data = _data(chosen, victim, base)
        try:
            cases.append(Case(attack=attack, defense=defense, victim=victim, data=data, **common))
        except ValidationError as error:
            raise UserError(one_line(error)) from None
    _require_different(cases)
    return cases


# Options and settings


@dataclass(frozen=True)
class _Chosen:
    """The options with `--set` merged in."""

    values: Mapping[str, Any]

    def text(self, name: str, default: str) -> str:
        value = self.values.get(name)
        return default if value is None else str(value)

    def number(self, name: str) -> int | None:
        value = self.values.get(name)
        if value is None or isinstance(value, int):
            return value
        try:
            return int(str(value))
        except ValueError:
            raise UserError(f"{_key(name)} is {value!r}; accepted: a whole number") from None

    def says(self, *names: str) -> bool:
        return any(self.values.get(name) is not None for name in names)


def _key(name: str) -> str:
    return next(key for key, option in SETTINGS.items() if option == name)


def _settings(options: RunOptions) -> tuple[_Chosen, dict[str, str], dict[str, str]]:
    """Splits `--set` into options, attack parameters and defense parameters."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    parameters: dict[str, dict[str, str]] = {"attack": {}, "defense": {}}
    for key, value in _pairs(options.settings):
        kind, dot, parameter = key.partition(".")
        if dot and kind in parameters:
            parameters[kind][parameter] = value
            continue
        if key not in SETTINGS:
            raise unknown_name("setting", key, [*SETTINGS, "attack.PARAMETER", "defense.PARAMETER"])
        name = SETTINGS[key]
        if values[name] is not None:
            raise UserError(f"{key} is given twice, by --set and by the option for it; keep one")
        values[name] = value
    return _Chosen(values), parameters["attack"], parameters["defense"]


def _pairs(settings: Iterable[str]) -> list[tuple[str, str]]:
    pairs: dict[str, str] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not (key and equals and value.strip()):
            raise UserError(f"cannot read --set '{text}'; accepted: KEY=VALUE, such as attack.steps=300")
        if key in pairs:
            raise UserError(f"--set {key} is given twice; keep one")
        pairs[key] = value.strip()
    return list(pairs.items())


# Attack and defense


def _attack(chosen: _Chosen, settings: Mapping[str, str], base: Case | None) -> ComponentSpec:
    default = base.attack.name if base else "gradvit"
    spec = parse_spec(chosen.text("attack", default))
    if spec.name in ENSEMBLES.names():
        return _ensemble(chosen, spec, settings, base)
    twice = next((key for key in settings if key in spec.parameters), None)
    if twice:
        raise UserError(f"attack.{twice} is given twice, by --set and by --attack; keep one")
    component: type[Attack] = ATTACKS.get(spec.name)
    given = {**spec.parameters, **settings}
    preset = chosen.values.get("preset")
    if base and not chosen.says("attack", "preset"):
        attack = component.configured({**base.attack.parameters, **given})
    else:
        attack = component.from_preset(preset, given)
    return ComponentSpec(name=spec.name, parameters=attack.parameters())


def _ensemble(chosen: _Chosen, spec: Spec, settings: Mapping[str, str], base: Case | None) -> ComponentSpec:
    """An ensemble takes no parameters; the one of a case file must be of this version."""
    given = [*spec.parameters, *(f"attack.{key}" for key in settings), *(["preset"] if chosen.says("preset") else [])]
    if given:
        raise UserError(
            f"ensemble {spec.name} takes no parameters (given: {', '.join(given)}), so that its numbers compare; "
            "run one of its attacks alone to change it"
        )
    if base and not chosen.says("attack"):
        ensemble_members(base)
    return cast(Ensemble, ENSEMBLES.get(spec.name)).spec(spec.name)


def split_defenses(text: str) -> list[str]:
    """Splits a comma list of defenses, in which a comma also separates the parameters of one defense.

    A chunk with `=` and no `:` before it continues the defense before: `none,mjp:mask_ratio=0.27,dal_weight=0,no-pe` are three.

    Raises:
        UserError: An entry is empty, or the list starts with a parameter.
    """
    found: list[str] = []
    for chunk in text.split(","):
        if not chunk.strip():
            raise UserError(f"an empty entry in --defense '{text}'; accepted: NAME,NAME:KEY=VALUE,...")
        continues = "=" in chunk and ":" not in chunk.partition("=")[0]
        if continues and not found:
            raise UserError(f"--defense '{text}' starts with a parameter; accepted: NAME,NAME:KEY=VALUE,...")
        if continues:
            found[-1] += f",{chunk.strip()}"
        else:
            found.append(chunk.strip())
    return found


def _defenses(chosen: _Chosen, settings: Mapping[str, str], base: Case | None) -> list[tuple[ComponentSpec, ...]]:
    if base and not chosen.says("defense"):
        defenses = [_checked(base.defense)]
    else:
        defenses = [resolve_defense(text) for text in split_defenses(chosen.text("defense", "mjp"))]
    for key, value in settings.items():
        defenses = _with_setting(defenses, key, value)
    return defenses


def _checked(specs: tuple[ComponentSpec, ...]) -> tuple[ComponentSpec, ...]:
    """The defenses of a case file, with parameters that it leaves out resolved."""
    return tuple(_configured(spec.name, spec.parameters) for spec in specs)


def _configured(name: str, parameters: Mapping[str, Any]) -> ComponentSpec:
    return ComponentSpec(name=name, parameters=DEFENSES.get(name).configured(parameters).parameters())


def _with_setting(defenses: list[tuple[ComponentSpec, ...]], key: str, value: str) -> list[tuple[ComponentSpec, ...]]:
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


# Victim, data, threat model


def _victim(chosen: _Chosen, defense: tuple[ComponentSpec, ...], base: Case | None) -> VictimSpec:
    sizes = {"num_classes": chosen.number("num_classes"), "image_size": chosen.number("image_size")}
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise UserError(f"{_key(name)} is {value}; accepted: a whole number from 1")
    default = base.victim if base else None
    if default and not chosen.says("model"):
        sizes = {
            "num_classes": sizes["num_classes"] or default.model.num_classes,
            "image_size": sizes["image_size"] or default.model.image_size,
        }
    found = resolve_victim(
        chosen.text("model", default.model.name if default else DEFAULT_MODEL),
        chosen.text("weights", default.weights if default else "embedded"),
        build_defense(defense),
        **sizes,
    )
    if default and not chosen.says("model", "weights", "defense") and found.weights_sha256 != default.weights_sha256:
        raise UserError(
            f"the weights '{found.weights}' are not those of the case (their sha256 differs); "
            "name them with --weights to make a new case of them"
        )
    return found


def parse_indices(text: str) -> tuple[int, ...]:
    """Reads positions as `0,3,5-7`.

    Raises:
        UserError: The text is not of that form.
    """
    indices: list[int] = []
    for chunk in text.strip("[]() ").split(","):
        first, dash, last = chunk.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise UserError(f"cannot read the indices '{text}'; accepted: whole numbers and ranges, such as 0,3,5-7")
        indices.extend(range(int(first), int(last or first) + 1))
    return tuple(indices)


def _data(chosen: _Chosen, victim: VictimSpec, base: Case | None) -> DataSpec:
    model = victim.model
    source = chosen.text("data", base.data.source if base else "photos")
    split = chosen.text("split", base.data.split if base else "test")
    images = open_images(source, split=split).for_classes(model.num_classes)
    batch_size = _batch_size(chosen, base)
    limit = chosen.number("limit")
    indices = parse_indices(str(chosen.values["indices"])) if chosen.says("indices") else None
    if base and not chosen.says("data", "split", "limit", "indices"):
        indices = base.data.indices
    if limit is None and indices is None:
        # Whole batches; where not even one can be filled, `select` says so.
        limit = max(min(DEFAULT_LIMIT, len(images)) // batch_size, 1) * batch_size
    positions = select(images, limit=limit, indices=indices, batch_size=batch_size)
    found = DataSpec(source=source, split=split, indices=positions, sha256=images.fingerprint(positions, model.image_size))
    unchanged = not chosen.says("data", "split", "limit", "indices", "model", "image_size", "num_classes")
    if base and unchanged and found.sha256 != base.data.sha256:
        raise UserError(
            f"the images of '{source}' are not those of the case (their sha256 differs); "
            "name them with --data to make a new case of them"
        )
    return found


def _batch_size(chosen: _Chosen, base: Case | None) -> int:
    given = chosen.number("batch_size")
    if given is None:
        return base.batch_size if base else 1
    if given < 1:
        raise UserError(f"batch_size is {given}; accepted: a whole number from 1")
    return given


def _common(chosen: _Chosen, base: Case | None, *, ensemble: bool) -> dict[str, Any]:
    # The worst case needs attackers who know of the defense.
    threat = base.threat_model if base else ThreatModel(adversary="aware" if ensemble else "unaware")
    given = {name: chosen.values[name] for name in ThreatModel.model_fields if chosen.says(name)}
    try:
        threat_model = ThreatModel.model_validate({**threat.model_dump(), **given})
    except ValidationError as error:
        raise UserError(f"threat_model.{one_line(error)}") from None
    seed = chosen.number("seed")
    return {
        "batch_size": _batch_size(chosen, base),
        "threat_model": threat_model,
        "local": _local(chosen, base),
        "lpips": chosen.text("lpips_net", base.lpips if base else "alex"),
        "seed": seed if seed is not None else (base.seed if base else 0),
    }


def _local(chosen: _Chosen, base: Case | None) -> LocalTraining | None:
    """Reads `sgd:steps=5,lr=0.01`."""
    if not chosen.says("local"):
        return base.local if base else None
    spec = parse_spec(chosen.text("local", "none"))
    if spec.name == "none" and not spec.parameters:
        return None
    try:
        return LocalTraining.model_validate({"optimiser": spec.name, **spec.parameters})
    except ValidationError as error:
        raise UserError(
            f"local training '{chosen.text('local', '')}': {one_line(error)}; accepted: none, or sgd, momentum or adamw with "
            "steps, epochs, batches, lr, momentum, weight_decay and dtype, such as sgd:steps=5,lr=0.01"
        ) from None


def _require_different(cases: list[Case]) -> None:
    seen: set[str] = set()
    for case in cases:
        if case.identity in seen:
            raise UserError(f"defense {case.defense_text} is given twice; give each one once")
        seen.add(case.identity)
