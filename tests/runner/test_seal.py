"""What an attack can reach: the observation and nothing of the truth; its random choices, and the state that it finds."""

import gc
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch

from privbench.core import (
    Case,
    Failure,
    Observation,
    Progress,
    Reconstruction,
    Record,
    Secret,
    generator_for,
)
from privbench.runner.context import CaseContext, load_case
from tests.runner.acting import CPU, Acting, secrets
from tests.runner.plugin.privbench_test_plugin import GroupWalk


def reachable(*roots: object) -> list[object]:
    """Every object that attributes, containers, closures and bound methods lead to; modules and classes end the walk."""
    seen: dict[int, object] = {}
    pending = list(roots)
    while pending:
        thing = pending.pop()
        if id(thing) in seen or isinstance(thing, type | types.ModuleType):
            continue
        seen[id(thing)] = thing
        if isinstance(thing, types.FunctionType):
            pending.extend(cell.cell_contents for cell in thing.__closure__ or ())
            pending.extend(thing.__defaults__ or ())
        else:
            pending.extend(gc.get_referents(thing))
    return list(seen.values())


def test_nothing_that_an_attack_receives_leads_to_the_secret(
    acting: type[Acting], small_case: Callable[..., Case], compute: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = small_case(attack="test-acting", limit=1, defense="mjp", adversary="oracle")
    (secret,) = secrets(case)
    found: list[object] = []

    def act(observation: Observation, generator: torch.Generator, progress: Progress) -> Reconstruction:
        found.extend(reachable(observation, generator, progress))
        return Reconstruction(images=torch.full((1, *observation.image_shape), 0.5))

    monkeypatch.setattr(acting, "act", act)
    compute(case)
    assert any(isinstance(thing, Observation) for thing in found)
    assert not any(isinstance(thing, Secret | CaseContext) for thing in found)
    shown = [thing for thing in found if isinstance(thing, torch.Tensor) and thing.shape[-3:] == (3, 32, 32)]
    assert shown == []
    tensors = [thing for thing in found if isinstance(thing, torch.Tensor) and thing.numel() == secret.images.numel()]
    assert not any(torch.equal(thing.flatten(), secret.images.flatten()) for thing in tensors)


@pytest.mark.parametrize("devices", [[CPU], [CPU, CPU]], ids=["one device", "two devices"])
def test_nothing_that_a_group_receives_leads_to_the_secret(
    devices: list[torch.device],
    small_case: Callable[..., Case],
    compute: Callable[..., Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = small_case(attack="test-group-walk", limit=4, defense="mjp", adversary="oracle")
    truth = [secret.images.flatten() for secret in secrets(case)]
    found: list[object] = []

    def act(self: GroupWalk, *arguments: object, **keywords: object) -> list[Failure]:
        found.extend(reachable(*arguments, *keywords.values()))
        return [Failure("enough seen")] * 2

    monkeypatch.setattr(GroupWalk, "run_group", act)
    compute(case, group=2, devices=devices)
    assert sum(isinstance(thing, Observation) for thing in found) == 4
    assert not any(isinstance(thing, Secret | CaseContext) for thing in found)
    tensors = [thing.flatten() for thing in found if isinstance(thing, torch.Tensor) and thing.numel() == truth[0].numel()]
    assert not any(torch.equal(tensor, images) for tensor in tensors for images in truth)


def test_the_streams_of_client_and_attack_differ_and_repeat(
    acting: type[Acting], small_case: Callable[..., Case], compute: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []

    def act(observation: Observation, generator: torch.Generator, progress: Progress) -> Reconstruction:
        drawn.append(float(torch.rand((), generator=generator)))
        return Reconstruction(images=torch.full((1, *observation.image_shape), 0.5))

    monkeypatch.setattr(acting, "act", act)
    case = small_case(attack="test-acting")
    compute(case)
    compute(case, force=True)
    assert drawn[:2] == drawn[2:]
    client = [float(torch.rand((), generator=generator_for(case, "client", batch))) for batch in (0, 1)]
    assert len({*drawn, *client}) == 4


def test_random_victims_depend_on_the_seed_alone(small_case: Callable[..., Case]) -> None:
    def weights(**options: Any) -> torch.Tensor:
        return torch.cat([value.flatten() for value in load_case(small_case(**options), CPU).victim.parameters()])

    first = weights()
    assert torch.equal(first, weights(defense="naive-shuffle", attack="test-failing", limit=1))
    assert not torch.equal(first, weights(seed=1))


def test_global_state_is_left_as_found(small_case: Callable[..., Case], compute: Callable[..., Record]) -> None:
    import signal

    before = (torch.random.get_rng_state(), torch.is_grad_enabled(), signal.getsignal(signal.SIGINT))
    compute(small_case())
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (torch.is_grad_enabled(), signal.getsignal(signal.SIGINT)) == before[1:]
