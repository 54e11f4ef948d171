"""Which attacks an audit tries, in which order, why the others do not apply, and how long it will take."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch

from privbench.adjoint import has_free_adjoint
from privbench.adversary import simulate
from privbench.attacks.adjoint_matching import AdjointMatching
from privbench.attacks.adjoint_settings import settings_for
from privbench.auditing.evidence import labels_of
from privbench.core import ATTACKS, Attack, Observation, UserError, parse_spec
from privbench.models import Victim

__all__ = ["CLOSED", "ORDER", "PlannedAttack", "attacks_of", "planned"]

ORDER = ("closed-form", "subspace", "april", "token-search", "adjoint-matching", "local-steps", "inverting-gradients")
"""Cheapest first: closed forms, then matching; what matches any parameters comes last, where no better attack applies."""

CLOSED = {"closed-form": 20.0, "subspace": 60.0, "april": 10.0, "token-search": 10_000.0}
"""Attacks that solve for the images and fit nothing: expected time in passes of the model, forward and backward."""
_LAST = "inverting-gradients"
_PASSES_A_STEP = 4.0
"""Passes of a step of matching."""


@dataclass(frozen=True)
class PlannedAttack:
    """One attack of an audit.

    Attributes:
        name: Registered name.
        attack: With the parameters that it will have; None where it does not apply.
        seconds: Expected time, 0 where it does not apply.
        reason: Why it does not apply, empty where it does.
    """

    name: str
    attack: Attack | None
    seconds: float
    reason: str = ""


def attacks_of(names: Sequence[str] = ORDER, preset: str = "quick") -> list[Attack]:
    """The attacks that are to be tried.

    Args:
        names: `NAME` or `NAME:KEY=VALUE,...`, in order.
        preset: Of those that have presets; parameters go before it.

    Raises:
        UserError: A name, a parameter or the preset is not accepted.
    """
    specs = [parse_spec(name) for name in names]
    return [cast(type[Attack], ATTACKS.get(spec.name)).from_preset(preset, spec.parameters) for spec in specs]


def planned(observation: Observation, victim: Victim, attacks: Sequence[Attack]) -> list[PlannedAttack]:
    """Asks every attack whether it applies.

    Args:
        observation: What is to be attacked.
        victim: Its model, for the time of a pass.
        attacks: From `attacks_of`.

    Returns:
        One entry for each.
    """
    seconds = _seconds_of_a_pass(victim, observation)
    plan: list[PlannedAttack] = []
    for attack in attacks:
        name = attack.name
        reason = _refusal(name, attack, observation) or (_better(plan) if name == _LAST else "")
        if reason:
            plan.append(PlannedAttack(name, None, 0.0, reason))
        else:
            plan.append(PlannedAttack(name, attack, seconds * _passes(name, attack, victim, observation)))
    return plan


def _refusal(name: str, attack: Attack, observation: Observation) -> str:
    """Why an attack does not apply, without the advice for those who compose a run; empty where it does."""
    if name == "local-steps" and observation.kind != "delta":
        return "it is for weight deltas, and this is a gradient"
    try:
        attack.require(observation)
    except UserError as error:
        return str(error).removeprefix(f"attack {name} ").removeprefix("does not apply to ").partition("; ")[0]
    if "label_recovery" in attack.parameters() and labels_of(observation, simulate(observation)) is None:
        return "it needs the labels, which this update does not show; give them (--labels)"
    return ""


def _better(plan: Sequence[PlannedAttack]) -> str:
    matching = [entry.name for entry in plan if entry.attack is not None and entry.name not in CLOSED]
    return f"{matching[0]} does the same, and better" if matching else ""


def _passes(name: str, attack: Attack, victim: Victim, observation: Observation) -> float:
    if name in CLOSED:
        return CLOSED[name]
    if isinstance(attack, AdjointMatching):
        return _passes_of_adjoint(attack, victim, observation)
    steps = int(attack.parameters().get("steps", 1000)) * int(attack.parameters().get("trials", 1))
    local = observation.training.steps + 1 if name == "local-steps" and observation.training is not None else 1
    return _PASSES_A_STEP * steps * local * observation.batch_size


def _passes_of_adjoint(attack: AdjointMatching, model: Victim, observation: Observation) -> float:
    """Its passes are of the first block alone where the adjoint is a variable."""
    free = attack.adjoint == "free" and has_free_adjoint(model, observation)
    steps = attack.steps or settings_for(model.image_size, free=free, images=observation.batch_size).steps
    share = 1 / max(len(list(getattr(model.network, "blocks", ()))), 1) if free else 1.0
    return _PASSES_A_STEP * steps * attack.trials * share * observation.batch_size


def _seconds_of_a_pass(victim: Victim, observation: Observation) -> float:
    """For the parameters observed, the quickest of three: the first one builds what the others find."""
    image = torch.zeros(1, 3, victim.image_size, victim.image_size, device=victim.mean.device)
    parameters = [value for name, value in victim.named_parameters() if name in observation.update]
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        torch.autograd.grad(victim(image).sum(), parameters, allow_unused=True)
        seconds.append(time.perf_counter() - begun)
    return min(seconds)
