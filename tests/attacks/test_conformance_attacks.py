"""What every attack keeps to. The registry is walked, so a new attack is tested as soon as it is registered."""

import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import Any, cast

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from privbench.core import ATTACKS, DEFENSES, Attack, Observation, Progress, Reconstruction, UserError
from privbench.scoring import score_choices
from tests.conformance import client_update, holds_image, reachable, round_trip

SLOW = {"idlg"}
"""Attacks that share all code but a label rule with another one, and meet these tests in the slow ones."""
EACH = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else []) for name in ATTACKS.names()]
NAMES = ATTACKS.names()
PRESETS = [
    pytest.param(name, preset, marks=pytest.mark.slow if name in SLOW or (name, preset) == ("dlg", "paper") else [])
    for name in ATTACKS.names()
    for preset in (ATTACKS.get(name).presets or [None])
]


def small(name: str, preset: str | None = None, *, steps: int = 2) -> Attack:
    """The attack, cut down to a few steps where it has any."""
    component: type[Attack] = ATTACKS.get(name)
    return component.from_preset(preset, {"steps": steps} if "steps" in component.model_fields else {})


def attacked(attack: Attack, observation: Observation, *, seed: int = 1, progress: Progress | None = None) -> Reconstruction:
    return attack(observation, generator=torch.Generator().manual_seed(seed), progress=progress)


def attacked_or_refused(attack: Attack, observation: Observation, *, progress: Progress | None = None) -> Reconstruction:
    """An attack need not apply to everything, but it must say so in one line."""
    try:
        return attacked(attack, observation, progress=progress)
    except UserError as error:
        refusal = str(error)
    assert "\n" not in refusal
    pytest.skip(refusal)


class Keeping(Progress):
    """Keeps every checkpoint as the run store does, and starts from one."""

    def __init__(self, start: Mapping[str, Any] | None = None) -> None:
        self.start = start
        self.kept: list[bytes] = []

    def save(self, state: Mapping[str, Any]) -> None:
        buffer = BytesIO()
        torch.save(dict(state), buffer)
        self.kept.append(buffer.getvalue())

    def restore(self) -> Mapping[str, Any] | None:
        return self.start


@contextmanager
def global_state_is_left_as_found() -> Iterator[None]:
    def state() -> list[object]:
        numpy_state: Any = np.random.get_state()  # noqa: NPY002 (the global generator is what must stay untouched)
        return [
            torch.random.get_rng_state().tolist(),
            random.getstate(),
            [part.tolist() if isinstance(part, np.ndarray) else part for part in numpy_state],
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
            torch.get_num_threads(),
            list(warnings.filters),
        ]

    before = state()
    yield
    assert state() == before


# Parameters


@pytest.mark.parametrize("name", EACH)
def test_the_class_carries_its_registered_name_and_says_what_it_is(name: str) -> None:
    component = ATTACKS.get(name)
    assert issubclass(component, Attack)
    assert component.name == name
    assert (component.__doc__ or "").strip()
    undocumented = [key for key, field in component.model_fields.items() if not field.description]
    assert undocumented == []


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_presets_build_and_their_values_are_stored_unchanged(name: str, preset: str | None) -> None:
    component: type[Attack] = ATTACKS.get(name)
    attack = component.from_preset(preset, {})
    values = component.presets[preset] if preset else {}
    assert {key: getattr(attack, key) for key in values} == dict(values)
    assert component.configured(attack.parameters()) == attack
    assert round_trip(attack) == attack


@pytest.mark.parametrize("name", EACH)
def test_the_first_preset_is_the_default(name: str) -> None:
    component: type[Attack] = ATTACKS.get(name)
    assert component.from_preset(None, {}) == component.from_preset(next(iter(component.presets), None), {})


@pytest.mark.parametrize("name", EACH)
def test_parameters_are_keyword_only_and_frozen(name: str) -> None:
    component: type[Attack] = ATTACKS.get(name)
    attack, untyped = component(), cast(Any, component)
    with pytest.raises(TypeError):
        untyped(1)
    for key, value in attack.parameters().items():
        with pytest.raises(ValidationError, match="frozen"):
            setattr(attack, key, value)


@pytest.mark.parametrize("name", EACH)
def test_unknown_parameters_and_presets_are_refused_in_one_line(name: str) -> None:
    component: type[Attack] = ATTACKS.get(name)
    for preset, parameters in ((None, {"no_such_parameter": "1"}), ("no-such-preset", {})):
        with pytest.raises(UserError, match=r"no.such.p") as caught:
            component.from_preset(preset, parameters)
        assert "\n" not in str(caught.value)


# Runs


@pytest.mark.parametrize("labels", ["recovered", "known"])
@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_every_preset_returns_images_in_range(name: str, preset: str | None, labels: str) -> None:
    update = client_update(labels=labels)
    result = attacked_or_refused(small(name, preset), update.observation)
    assert result.images.shape == (1, 3, 32, 32)
    assert torch.isfinite(result.images).all()
    assert 0 <= result.images.min() <= result.images.max() <= 1
    if result.labels is not None:
        # Two steps need not suffice where labels are optimised (dlg); what is known must stay.
        assert result.labels.tolist() == [3] if labels == "known" or name != "dlg" else 0 <= result.labels.item() < 10


def test_every_attack_applies_to_the_plain_client_but_those_that_say_why_not_in_their_cards() -> None:
    def applies(name: str) -> bool:
        try:
            small(name).require(client_update().observation)
        except UserError:
            return False
        return True

    assert {name for name in NAMES if not applies(name)} == {"april"}


@pytest.mark.parametrize("name", EACH)
def test_a_batch_comes_back_whole_or_is_refused_in_one_line(name: str) -> None:
    update = client_update(batch=3)
    result = attacked_or_refused(small(name), update.observation)
    assert result.images.shape == (3, 3, 32, 32)
    assert result.labels is None or result.labels.shape == (3,)


_MEET_ALL = {"closed-form", "gradvit"}


def _combinations() -> list[Any]:
    """Every attack against every defense; by default each meets the defenses of the client's batch, and two meet all."""
    quick = {"none", "no-pe", "naive-shuffle", "mjp"}

    def is_slow(name: str, defense: str, adversary: str) -> bool:
        searches = (name, defense) == ("subspace", "no-pe") and adversary != "aware"
        return name in SLOW or searches or (defense not in quick and name not in _MEET_ALL)

    return [
        pytest.param(name, defense, adversary, marks=[pytest.mark.slow] if is_slow(name, defense, adversary) else [])
        for name in NAMES
        for defense in DEFENSES.names()
        for adversary in ("unaware", "aware", "oracle")
    ]


@pytest.mark.parametrize(("name", "defense", "adversary"), _combinations())
def test_every_defense_and_adversary_can_be_attacked(name: str, defense: str, adversary: str) -> None:
    update = client_update(defense, adversary=adversary)
    result = attacked_or_refused(small(name), update.observation)
    private = update.secret.images
    assert result.images.shape == private.shape
    # Only an aware adversary infers, only what the client chose, and in the form of the choice.
    choices = update.defense.scored_choices(update.secret.choices)
    assert result.inferred.roles <= (choices.roles if adversary == "aware" else frozenset())
    for found in score_choices(result.inferred, choices, result.images, private, 4, source=list(range(len(private)))):
        assert (found.mask_accuracy is not None) == ("mask" in result.inferred.roles)


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_the_generator_alone_decides_and_global_state_stays(name: str, preset: str | None) -> None:
    observation = client_update().observation
    with global_state_is_left_as_found():
        first = attacked_or_refused(small(name, preset), observation)
    torch.rand(3)
    second = attacked(small(name, preset), observation)
    assert torch.equal(first.images, second.images)
    assert first.losses == second.losses


@pytest.mark.parametrize("name", EACH)
def test_the_observation_is_not_changed(name: str) -> None:
    observation = client_update("mjp:mask_ratio=0.5", adversary="oracle").observation
    groups = (observation.gradients, observation.model_state, observation.disclosed)
    before = [{key: value.clone() for key, value in group.items()} for group in groups]
    attacked_or_refused(small(name), observation)
    for group, copies in zip(groups, before, strict=True):
        assert group.keys() == copies.keys()
        assert all(torch.equal(group[key], copies[key]) for key in copies)
        assert not any(value.requires_grad for value in group.values())


@pytest.mark.parametrize(
    # L-BFGS on the embedded victim: three runs of dlg take most of a minute.
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW | {"dlg"} else []) for name in ATTACKS.names()],
)
def test_an_attack_continued_from_a_checkpoint_ends_where_an_uninterrupted_one_does(name: str) -> None:
    observation = client_update().observation
    attack = small(name, steps=12)
    whole = Keeping()
    expected = attacked_or_refused(attack, observation, progress=whole)
    if not whole.kept:
        pytest.skip(f"{name} keeps no checkpoint")
    state = torch.load(BytesIO(whole.kept[0]), weights_only=True)
    rest = Keeping(state)
    continued = attacked(attack, observation, progress=rest)
    assert len(rest.kept) < len(whole.kept)
    assert torch.equal(continued.images, expected.images)
    assert continued.losses == expected.losses


# The truth stays sealed


@pytest.mark.parametrize("adversary", ["unaware", "aware", "oracle"])
@pytest.mark.parametrize("defense", ["none", "no-pe", "naive-shuffle", "mjp:mask_ratio=0.5"])
def test_no_reference_leads_from_an_observation_to_the_secret(defense: str, adversary: str) -> None:
    update = client_update(defense, batch=2, adversary=adversary)
    found = reachable(update.observation)
    if adversary != "oracle":
        # Whoever is not told the client's choices has them nowhere.
        tensors = [thing for thing in found if isinstance(thing, torch.Tensor)]
        assert not any(torch.equal(thing, choice) for thing in tensors for choice in update.secret.choices.values())
    assert any(thing is value for thing in found for value in update.observation.gradients.values())
    assert not holds_image(found, update.secret)
    for thing in found:
        if isinstance(thing, torch.Tensor):
            assert thing.grad_fn is None
            # No view into a larger tensor, in whose memory an image could lie.
            assert thing.untyped_storage().nbytes() == thing.numel() * thing.element_size()


@pytest.mark.parametrize("hide", ["closure", "view", "graph", "scaled"])
def test_the_walk_finds_a_secret_that_is_hidden(hide: str) -> None:
    update = client_update(batch=2)
    images = update.secret.images
    weight = torch.ones(3, 32, 32, requires_grad=True)
    leaks = {
        "closure": lambda: images,
        "view": images[0, 0, 0],
        "graph": (weight * images[1]).sum(),
        "scaled": (0.25 * images[:1] + 0.5).flatten(),
    }
    object.__setattr__(update.observation, "defense", {"note": leaks[hide]})
    assert holds_image(reachable(update.observation), update.secret)


@pytest.mark.parametrize("defense", [*DEFENSES.names(), "mjp:mask_ratio=0.5"])
def test_disclosure_is_the_oracles_alone_and_is_never_an_image(defense: str) -> None:
    for adversary in ("unaware", "aware"):
        assert dict(client_update(defense, adversary=adversary).observation.disclosed) == {}
    update = client_update(defense, adversary="oracle")
    disclosed = update.observation.disclosed
    assert disclosed.keys() == update.secret.choices.keys()
    assert not holds_image(disclosed, update.secret)
    # Other images under the same seed: what is disclosed does not depend on them.
    other = client_update(defense, adversary="oracle", images=1 - update.secret.images).observation.disclosed
    assert all(torch.equal(disclosed[key], other[key]) for key in disclosed)
