"""From what a user asks for to resolved cases, one per attack and defense.

Three sources, the later one wins: the built-in defaults or a case from `--config`, the command-line options, and `--set
key=value`. The keys of `--set` are those of the case's YAML, so what a file shows is what can be set.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from privbench.core import (
    ENSEMBLES,
    SERVERS,
    Case,
    ComponentSpec,
    DataSpec,
    LocalTraining,
    ThreatModel,
    UserError,
    VictimSpec,
    build_defense,
    image_priors,
    parse_spec,
    unknown_name,
)
from privbench.core.component import one_line
from privbench.data import open_images, select
from privbench.models import DEFAULT_MODEL, prior_sha256, resolve_victim
from privbench.resolving.components import resolve_attacks, resolve_defenses
from privbench.resolving.options import SETTINGS, RunOptions, is_whole_number
from privbench.resolving.overrides import Overrides, key_of, read_overrides

__all__ = ["DEFAULT_LIMIT", "ResolvedParts", "parse_indices", "resolve_cases"]

_Part = TypeVar("_Part")

DEFAULT_LIMIT = 4
"""So many images are attacked where the user does not say."""

_MOST_INDICES = 10_000_000
_DIGITS = 18


class ResolvedParts:
    """What many cases have in common, resolved once: components, victims and images of a study."""

    def __init__(self) -> None:
        self._found: dict[str, Any] = {}

    def once(self, make: Callable[[], _Part], *key: object) -> _Part:
        """What `make` gives, made at the first call with this key."""
        # As text: to a mapping 1, 1.0 and True are one key.
        name = repr(key)
        if name not in self._found:
            self._found[name] = make()
        return cast(_Part, self._found[name])


def resolve_cases(options: RunOptions, shared: ResolvedParts | None = None) -> list[Case]:
    """Resolves every name, parameter, weight and image that the user asked for.

    Args:
        options: What was asked for.
        shared: What was resolved for other cases, where files and images are taken to be the same; None: nothing.

    Returns:
        One case per attack and defense, attack after attack, in the order given.

    Raises:
        UserError: A name, a key or a value is not accepted, or something does not fit.
    """
    chosen = read_overrides(options)
    config = options.get("config")
    base = None if config is None else Case.from_yaml(config)
    # A case to start from is one more source of everything.
    parts = ResolvedParts() if shared is None or base else shared
    given, common = chosen.values.get, _common(chosen, base)
    attacks = parts.once(
        lambda: resolve_attacks(chosen, base), "attack", given("attack"), given("preset"), *sorted(chosen.attack.items())
    )
    defenses = parts.once(lambda: resolve_defenses(chosen, base), "defense", given("defense"), *sorted(chosen.defense.items()))
    settings = [
        (defense, victim, _shared_data(parts, chosen, victim, base))
        for defense, victim in ((defense, _shared_victim(parts, chosen, defense, base)) for defense in defenses)
    ]
    cases = []
    for attack in attacks:
        threat_model = _threat_model(chosen, base, attack, common["server"])
        priors = parts.once(partial(_prior_weights, chosen, attack, base), "prior_weights", str(attack))
        for defense, victim, data in settings:
            fields = {"attack": attack, "defense": defense, "victim": victim, "data": data, "threat_model": threat_model}
            try:
                cases.append(Case.model_validate({**fields, **common, "prior_weights": priors}))
            except ValidationError as error:
                raise UserError(one_line(error)) from None
    _require_different(cases)
    return cases


def _shared_victim(
    parts: ResolvedParts, chosen: Overrides, defense: tuple[ComponentSpec, ...], base: Case | None
) -> VictimSpec:
    names = ("model", "weights", "num_classes", "image_size")
    key = (*map(str, defense), *map(chosen.values.get, names))
    return parts.once(lambda: _victim(chosen, defense, base), "victim", *key)


def _shared_data(parts: ResolvedParts, chosen: Overrides, victim: VictimSpec, base: Case | None) -> DataSpec:
    names = ("data", "split", "limit", "indices", "batch_size")
    key = (victim.model.num_classes, victim.model.image_size, *map(chosen.values.get, names))
    return parts.once(lambda: _data(chosen, victim, base), "data", *key)


# Victim, data, threat model


def _victim(chosen: Overrides, defense: tuple[ComponentSpec, ...], base: Case | None) -> VictimSpec:
    sizes = {"num_classes": chosen.number("num_classes"), "image_size": chosen.number("image_size")}
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise UserError(f"{key_of(name)} is {value}; accepted: a whole number from 1")
    default = base.victim if base else None
    if default and not chosen.has("model"):
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
    if default and not chosen.has("model", "weights", "defense") and found.weights_sha256 != default.weights_sha256:
        raise UserError(
            f"the weights '{found.weights}' are not those of the case (their sha256 differs); "
            "name them with --weights to make a new case of them"
        )
    return found


def parse_indices(text: str, called: str = "indices") -> tuple[int, ...]:
    """Reads positions as `0,3,5-7`; `called` is what an error calls them.

    Raises:
        UserError: The text is not of that form.
    """
    indices: list[int] = []
    for chunk in text.strip("[]() ").split(","):
        first, dash, last = chunk.strip().partition("-")
        if not _is_position(first) or (dash and not _is_position(last)) or (dash and int(last) < int(first)):
            raise UserError(f"cannot read the {called} '{text[:200]}'; accepted: whole numbers and ranges, such as 0,3,5-7")
        if len(indices) + int(last or first) - int(first) >= _MOST_INDICES:
            raise UserError(f"the {called} '{text[:200]}' are more than {_MOST_INDICES:,}; name fewer")
        indices.extend(range(int(first), int(last or first) + 1))
    return tuple(indices)


def _is_position(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _DIGITS


def _data(chosen: Overrides, victim: VictimSpec, base: Case | None) -> DataSpec:
    model = victim.model
    source = chosen.text("data", base.data.source if base else "photos")
    split = chosen.text("split", base.data.split if base else "test")
    images = open_images(source, split=split).for_classes(model.num_classes)
    batch_size = _batch_size(chosen, base)
    limit = chosen.number("limit")
    indices = parse_indices(str(chosen.values["indices"])) if chosen.has("indices") else None
    if base and not chosen.has("data", "split", "limit", "indices"):
        indices = base.data.indices
    if limit is None and indices is None:
        # Whole batches; where not even one can be filled, `select` says so.
        limit = max(min(DEFAULT_LIMIT, len(images)) // batch_size, 1) * batch_size
    positions = select(images, limit=limit, indices=indices, batch_size=batch_size)
    found = DataSpec(source=source, split=split, indices=positions, sha256=images.fingerprint(positions, model.image_size))
    unchanged = not chosen.has("data", "split", "limit", "indices", "model", "image_size", "num_classes")
    if base and unchanged and found.sha256 != base.data.sha256:
        raise UserError(
            f"the images of '{source}' are not those of the case (their sha256 differs); "
            "name them with --data to make a new case of them"
        )
    return found


def _batch_size(chosen: Overrides, base: Case | None) -> int:
    given = chosen.number("batch_size")
    if given is None:
        return base.batch_size if base else 1
    if given < 1:
        raise UserError(f"batch_size is {given}; accepted: a whole number from 1")
    return given


def _common(chosen: Overrides, base: Case | None) -> dict[str, Any]:
    """The fields of a case that have readers of their own, and all others that are a word or a whole number."""
    read = {"batch_size": _batch_size, "local": _local, "trains": _trains, "server": _server}
    fields = {key: reader(chosen, base) for key, reader in read.items()}
    for key in SETTINGS.keys() & Case.model_fields.keys() - {*read, "attack", "defense"}:
        default = getattr(base, key) if base else Case.model_fields[key].default
        fields[key] = _plain(chosen, SETTINGS[key], default)
    return fields


def _plain(chosen: Overrides, name: str, default: Any) -> Any:
    if not chosen.has(name):
        return default
    return chosen.number(name) if is_whole_number(name) else chosen.text(name, "")


def _local(chosen: Overrides, base: Case | None) -> LocalTraining | None:
    """Reads `sgd:steps=5,lr=0.01`."""
    if not chosen.has("local"):
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


def _trains(chosen: Overrides, base: Case | None) -> str | None:
    """Reads `attention+norms`, or `all`; what the names choose is known with the model."""
    text = chosen.text("trains", (base.trains if base else None) or "all").strip()
    return None if text in {"all", ""} else text


def _server(chosen: Overrides, base: Case | None) -> ComponentSpec | None:
    """Reads `imprint:bins=256`, or `honest`."""
    if not chosen.has("server"):
        return base.server if base else None
    spec = parse_spec(chosen.text("server", "honest"))
    if spec.name == "honest" and not spec.parameters:
        return None
    if spec.name not in SERVERS.names():
        raise unknown_name("server", spec.name, ["honest", *SERVERS.names()])
    built = SERVERS.get(spec.name).configured(spec.parameters)
    return ComponentSpec(name=spec.name, parameters=built.parameters())


def _threat_model(chosen: Overrides, base: Case | None, attack: ComponentSpec, server: ComponentSpec | None) -> ThreatModel:
    # The highest leakage needs attackers who know of the defense.
    ensemble = attack.name in ENSEMBLES.names()
    threat = base.threat_model if base else ThreatModel(adversary="aware" if ensemble else "unaware")
    given = {name: chosen.values[name] for name in ThreatModel.model_fields if name != "server" and chosen.has(name)}
    given["server"] = "honest" if server is None else "malicious"
    try:
        return ThreatModel.model_validate({**threat.model_dump(), **given})
    except ValidationError as error:
        raise UserError(f"threat_model.{one_line(error)}") from None


def _prior_weights(chosen: Overrides, attack: ComponentSpec, base: Case | None) -> dict[str, str]:
    """The content of the weights behind the attack's image priors; a case to start from has to mean the same."""
    found = {prior: digest for prior in image_priors(attack) if (digest := prior_sha256(prior)) is not None}
    before = base.prior_weights if base and not (chosen.has("attack", "preset") or chosen.attack) else {}
    for prior, expected in before.items():
        if found.get(prior) != expected:
            raise UserError(
                f"the weights of the prior {prior} are not those of the case (their sha256 differs); "
                "name the attack with --attack to make a new case of it"
            )
    return found


def _require_different(cases: list[Case]) -> None:
    seen: set[str] = set()
    for case in cases if len(cases) > 1 else ():
        if case.identity in seen:
            raise UserError(f"attack {case.attack.name} on defense {case.defense_text} is given twice; give each one once")
        seen.add(case.identity)
