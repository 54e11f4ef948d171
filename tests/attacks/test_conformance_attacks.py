"""What every attack keeps to. The registry is walked, so a new attack is tested as soon as it is registered.

The rules are those of `privbench check`; here each meets every attack, and two attacks meet every defense.
"""

from typing import Any

import pytest
import torch

from privbench.conformance import ATTACK_RULES
from privbench.conformance.attack_rules import MEETS, meets, small
from privbench.conformance.rules import NotApplicableError, Rule
from privbench.core import ATTACKS, DEFENSES, UserError
from tests.conformance import client_update, holds_image, reachable, small_clients

__all__ = ["small_clients"]

SLOW = {"idlg", "dlg"}
"""Attacks that share all code but a label rule with another one, or run L-BFGS for most of a minute."""
NEEDS_WIDTH = {"subspace", "token-search"}
"""Attacks that refuse the small victim of the other ones, whose width is less than its tokens."""
NAMES = ATTACKS.names()


def _rules() -> list[Any]:
    """Each attack with each rule; what takes long by default is tested by a part of itself below."""
    slow = {("subspace", "meets defenses and adversaries, or refuses them in one line")}
    return [
        pytest.param(
            name,
            rule,
            marks=pytest.mark.nightly if name in SLOW or (name, rule.text) in slow else [],
            id=f"{name}-{rule.text.partition(',')[0].replace(' ', '-')}",
        )
        for name in NAMES
        for rule in ATTACK_RULES
    ]


@pytest.mark.parametrize(("name", "rule"), _rules())
def test_every_attack_keeps_every_rule(name: str, rule: Rule, request: pytest.FixtureRequest) -> None:
    if name not in NEEDS_WIDTH:
        request.getfixturevalue("small_clients")
    try:
        rule.check(name)
    except NotApplicableError as reason:
        pytest.skip(str(reason))


# Without positions it meets clients in test_subspace_without_positions.py.
@pytest.mark.parametrize(
    ("defense", "adversary"),
    [
        ("none", "unaware"),
        ("naive-shuffle", "aware"),
        ("naive-shuffle", "oracle"),
        ("mjp:mask_ratio=0.5", "aware"),
        ("mjp:mask_ratio=0.5", "oracle"),
    ],
)
def test_subspace_meets_what_it_solves_in_different_ways(defense: str, adversary: str) -> None:
    meets("subspace", defense, adversary)


def test_every_attack_applies_to_the_plain_client_but_those_that_say_why_not_in_their_cards() -> None:
    def applies(name: str) -> bool:
        try:
            small(name).require(client_update().observation)
        except UserError:
            return False
        return True

    assert {name for name in NAMES if not applies(name)} == {"april", "fishing", "imprint", "token-search"}


def _others() -> list[Any]:
    """Two attacks against every defense that the rules leave out, by default, and all attacks in the slow tests."""
    rest = sorted(set(DEFENSES.names()) - {defense.partition(":")[0] for defense in MEETS})
    return [
        pytest.param(name, defense, marks=[] if name in {"adjoint-matching", "closed-form"} else [pytest.mark.nightly])
        for name in NAMES
        for defense in rest
    ]


@pytest.mark.usefixtures("small_clients")
@pytest.mark.parametrize("adversary", ["unaware", "aware", "oracle"])
@pytest.mark.parametrize(("name", "defense"), _others())
def test_every_defense_and_adversary_can_be_attacked(name: str, defense: str, adversary: str) -> None:
    try:
        meets(name, defense, adversary)
    except NotApplicableError as reason:
        pytest.skip(str(reason))


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


@pytest.mark.parametrize("defense", ["mjp:mask_ratio=0.5", "precode"])
def test_disclosure_is_the_oracles_alone(defense: str) -> None:
    for adversary in ("unaware", "aware"):
        assert dict(client_update(defense, adversary=adversary).observation.disclosed) == {}
    update = client_update(defense, adversary="oracle")
    assert update.observation.disclosed.keys() == update.secret.choices.keys()
