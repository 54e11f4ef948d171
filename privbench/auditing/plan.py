"""Which attacks an audit tries, in which order, why the others do not apply, and how long it will take."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch

from privbench.core import ATTACKS, Attack, Observation, UserError
from privbench.models import Victim

__all__ = ["ORDER", "PlannedAttack", "planned"]

ORDER = ("closed-form", "subspace", "april", "adjoint-matching", "local-steps")
"""Cheapest first: closed forms, then matching."""

_CLOSED = {"closed-form": 20.0, "subspace": 60.0, "april": 10.0}
"""Expected time in passes of the model, forward and backward."""
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


def planned(
    observation: Observation, victim: Victim, *, names: Sequence[str] = ORDER, preset: str = "quick"
) -> list[PlannedAttack]:
    """Asks every attack whether it applies.

    Args:
        observation: What is to be attacked.
        victim: Its model, for the time of a pass.
        names: Which attacks, in order.
        preset: Of the attacks that have steps.

    Returns:
        One entry for each name.
    """
    seconds = _seconds_of_a_pass(victim)
    plan = []
    for name in names:
        attack = cast(type[Attack], ATTACKS.get(name)).from_preset(preset, {})
        if name == "local-steps" and observation.kind != "delta":
            plan.append(PlannedAttack(name, None, 0.0, "it is for weight deltas, and this is a gradient"))
            continue
        try:
            attack.require(observation)
        except UserError as error:
            plan.append(PlannedAttack(name, None, 0.0, str(error).removeprefix(f"attack {name} ")))
            continue
        plan.append(PlannedAttack(name, attack, seconds * _passes(name, attack, observation)))
    return plan


def _passes(name: str, attack: Attack, observation: Observation) -> float:
    if name in _CLOSED:
        return _CLOSED[name]
    steps = int(attack.parameters().get("steps", 1000)) * int(attack.parameters().get("trials", 1))
    local = observation.training.steps + 1 if name == "local-steps" and observation.training is not None else 1
    return _PASSES_A_STEP * steps * local * observation.batch_size


def _seconds_of_a_pass(victim: Victim) -> float:
    """The quickest of three: the first one builds what the others find."""
    image = torch.zeros(1, 3, victim.image_size, victim.image_size, device=victim.mean.device)
    parameters = [value for value in victim.parameters() if value.requires_grad]
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        torch.autograd.grad(victim(image).sum(), parameters, allow_unused=True)
        seconds.append(time.perf_counter() - begun)
    return min(seconds)
