"""What every attack keeps to, checked on clients of the embedded architecture with random weights."""

from collections.abc import Mapping
from io import BytesIO
from typing import Any, get_args

import torch

from privbench.conformance.harness import client_update, round_trip
from privbench.conformance.rules import (
    NotApplicableError,
    Rule,
    check_class,
    check_parameters,
    global_state_stays,
    keep,
    raises,
)
from privbench.core import ATTACKS, Adversary, Attack, Observation, Progress, Reconstruction, UserError
from privbench.core.spec import parse_spec
from privbench.scoring import score_choices

__all__ = ["ATTACK_RULES", "MEETS", "Keeping", "attacked", "meets", "small"]

MEETS = ("none", "no-pe", "naive-shuffle", "mjp:mask_ratio=0.5")
"""Defenses that an attack must meet, or refuse, in a check; the project's own tests walk all."""
_STEPS = 2
_RESUMED_STEPS = 12
_LABEL = 3


def small(spec: str, preset: str | None = None, *, steps: int = _STEPS) -> Attack:
    """The attack, cut down to a few steps where it has a parameter of that name and none is given.

    Args:
        spec: As on the command line.
        preset: One of its presets.
        steps: How many.
    """
    parsed = parse_spec(spec)
    component: type[Attack] = ATTACKS.get(parsed.name)
    fewer = {"steps": steps} if "steps" in component.model_fields else {}
    return component.from_preset(preset, {**fewer, **parsed.parameters})


def attacked(attack: Attack, observation: Observation, *, seed: int = 1, progress: Progress | None = None) -> Reconstruction:
    """What an attack returns for a seed."""
    return attack(observation, generator=torch.Generator().manual_seed(seed), progress=progress)


def _or_refused(attack: Attack, observation: Observation, progress: Progress | None = None) -> Reconstruction:
    """An attack need not apply to everything, but it must say so in one line."""
    try:
        return attacked(attack, observation, progress=progress)
    except UserError as error:
        keep("\n" not in str(error), "it refuses in more than one line")
        raise NotApplicableError(str(error)) from None


class Keeping(Progress):
    """Keeps every checkpoint as the store does, and starts from one."""

    def __init__(self, start: Mapping[str, Any] | None = None) -> None:
        self.start = start
        self.kept: list[bytes] = []

    def save(self, state: Mapping[str, Any]) -> None:
        """Keeps it as bytes."""
        buffer = BytesIO()
        torch.save(dict(state), buffer)
        self.kept.append(buffer.getvalue())

    def restore(self) -> Mapping[str, Any] | None:
        """What it was made with."""
        return self.start


def _presets(spec: str) -> list[str | None]:
    return list(ATTACKS.get(parse_spec(spec).name).presets) or [None]


# Parameters


def _class(spec: str) -> None:
    name = parse_spec(spec).name
    check_class(name, ATTACKS.get(name), Attack)


def _parameters(spec: str) -> None:
    check_parameters(small(spec))


def _builds_presets(spec: str) -> None:
    component: type[Attack] = ATTACKS.get(parse_spec(spec).name)
    for preset in _presets(spec):
        attack = component.from_preset(preset, {})
        values = dict(component.presets[preset]) if preset else {}
        keep({key: getattr(attack, key) for key in values} == values, f"preset {preset} is not stored unchanged")
        keep(round_trip(attack) == attack, f"preset {preset}, built from its text, is another one")
    keep(component.from_preset(None, {}) == component.from_preset(_presets(spec)[0], {}), "the first preset is not the default")
    message = raises(UserError, lambda: component.from_preset("no-such-preset", {}), "it takes an unknown preset")
    keep("\n" not in message, "an unknown preset is refused in more than one line")


# Runs


def _runs(spec: str) -> None:
    for labels in ("recovered", "known"):
        observation = client_update(labels=labels).observation
        for preset in _presets(spec):
            result = _or_refused(small(spec, preset), observation)
            keep(result.labels is None or result.labels.shape == (1,), f"labels {result.labels}, expected one")
            if labels == "known" and result.labels is not None:
                keep(result.labels.tolist() == [_LABEL], f"told that the label is {_LABEL} it returns {result.labels.tolist()}")


def _batch(spec: str) -> None:
    result = _or_refused(small(spec), client_update(batch=3).observation)
    keep(result.images.shape == (3, 3, 32, 32), f"of three images it returns {tuple(result.images.shape)}")
    keep(result.labels is None or result.labels.shape == (3,), "labels are not one an image")


def meets(spec: str, defense: str, adversary: str) -> None:
    """An attack on a client under a defense returns a batch, and infers what the adversary does not know and no more.

    Args:
        spec: The attack.
        defense: As on the command line.
        adversary: Of the threat model.
    """
    update = client_update(defense, adversary=adversary)
    result = _or_refused(small(spec), update.observation)
    private, about = update.secret.images, f"{defense}, {adversary}"
    keep(result.images.shape == private.shape, f"{about}: images {tuple(result.images.shape)}")
    chosen = update.defense.scored_choices(update.secret.choices)
    wrong = result.inferred.roles - (chosen.roles if update.observation.threat_model.infers_choices else frozenset())
    keep(
        not wrong,
        f"{about}: it states {', '.join(sorted(wrong))}, which the client did not choose or the adversary does not infer",
    )
    for found in score_choices(result.inferred, chosen, result.images, private, 4, source=list(range(len(private)))):
        keep((found.mask_accuracy is not None) == ("mask" in result.inferred.roles), f"{about}: its mask cannot be scored")


def _defenses(spec: str) -> None:
    refused = 0
    pairs = [(defense, adversary) for defense in MEETS for adversary in get_args(Adversary)]
    for defense, adversary in pairs:
        try:
            meets(spec, defense, adversary)
        except NotApplicableError:
            refused += 1
    if refused == len(pairs):
        raise NotApplicableError("it refuses all of them")


def _deterministic(spec: str) -> None:
    observation = client_update().observation
    for preset in _presets(spec):
        with global_state_stays():
            first = _or_refused(small(spec, preset), observation)
        torch.rand(3)
        second = attacked(small(spec, preset), observation)
        keep(torch.equal(first.images, second.images), f"preset {preset}: the same generator gives other images")
        keep(first.losses == second.losses, f"preset {preset}: the same generator gives other losses")


def _observation(spec: str) -> None:
    observation = client_update("mjp:mask_ratio=0.5", adversary="oracle").observation
    groups = (observation.update, observation.model_state, observation.disclosed)
    before = [{key: value.clone() for key, value in group.items()} for group in groups]
    _or_refused(small(spec), observation)
    for group, copies in zip(groups, before, strict=True):
        same = group.keys() == copies.keys() and all(torch.equal(group[key], copies[key]) for key in copies)
        keep(same, "it changes the observation")
        keep(not any(value.requires_grad for value in group.values()), "it makes the observation require gradients")


def _resumes(spec: str) -> None:
    observation, attack = client_update().observation, small(spec, steps=_RESUMED_STEPS)
    whole = Keeping()
    expected = _or_refused(attack, observation, whole)
    if not whole.kept:
        raise NotApplicableError("it keeps no checkpoint")
    rest = Keeping(torch.load(BytesIO(whole.kept[0]), weights_only=True))
    continued = attacked(attack, observation, progress=rest)
    keep(len(rest.kept) < len(whole.kept), "a checkpoint is not continued")
    same = torch.equal(continued.images, expected.images) and continued.losses == expected.losses
    keep(same, "continued from a checkpoint it ends elsewhere")


ATTACK_RULES = (
    Rule("is a documented class with its registered name", _class),
    Rule("has frozen, keyword-only parameters that are stored unchanged", _parameters),
    Rule("builds its presets, the first by default", _builds_presets),
    Rule("returns one image in [0, 1], and the label that it was told", _runs),
    Rule("returns a batch whole, or refuses it in one line", _batch),
    Rule("meets defenses and adversaries, or refuses them in one line", _defenses),
    Rule("draws from its generator alone and leaves global state alone", _deterministic),
    Rule("does not change the observation", _observation),
    Rule("ends at the same place when continued from a checkpoint", _resumes),
)
"""In the order in which they are checked: what is cheap and what others rest on comes first."""
