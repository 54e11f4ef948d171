"""A case is loaded once: one victim, and one client update for each batch, whoever asks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import privbench
from privbench.client import observe
from privbench.core import Case, Record, UserError
from privbench.models import load_victim
from privbench.runner.context import load_case
from privbench.runner.suites import Suites


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often a client computes an update, and how often a victim is built for one."""
    counts = {"updates": 0, "victims": 0}

    def update(*arguments: Any, **named: Any) -> Any:
        counts["updates"] += 1
        return observe(*arguments, **named)

    def victim(*arguments: Any, **named: Any) -> Any:
        counts["victims"] += 1
        return load_victim(*arguments, **named)

    monkeypatch.setattr("privbench.runner.context.observe", update)
    monkeypatch.setattr("privbench.runner.context.load_victim", victim)
    return counts


def test_a_case_of_n_batches_makes_n_updates_and_one_victim(
    small_case: Callable[..., Case], compute: Callable[..., Record], counted: dict[str, int]
) -> None:
    compute(small_case(limit=4), draw=lambda _: b"picture")
    assert counted == {"updates": 4, "victims": 1}


def test_a_group_attack_asks_for_its_size_and_makes_no_update_more(
    small_case: Callable[..., Case], compute: Callable[..., Record], counted: dict[str, int]
) -> None:
    compute(small_case(attack="test-group-walk", limit=4), draw=lambda _: b"picture")
    assert counted == {"updates": 4, "victims": 1}


@pytest.mark.parametrize("local", ["none", "sgd:steps=2,lr=0.1"])
def test_a_client_sends_what_it_trains_and_nothing_else(small_case: Callable[..., Case], local: str) -> None:
    whole, part = (load_case(small_case(trains=trains, local=local), torch.device("cpu")) for trains in ("all", "head"))
    sent, of_part = whole.observe(0)[0].update, part.observe(0)[0].update
    assert set(of_part) == set(part.victim.classifier_names())
    assert set(sent) > set(of_part)
    if local == "none":
        assert all(torch.equal(value, sent[name]) for name, value in of_part.items())
    with pytest.raises(UserError, match="no parameter of the model is called 'hat'"):
        load_case(small_case(trains="hat"), torch.device("cpu")).require()


def test_several_attacks_and_defenses_share_the_client_of_each_defense(tmp_path: Path, counted: dict[str, int]) -> None:
    results = privbench.run(
        defense="none,mjp",
        attack="test-walk,test-group-walk",
        model="test-vit",
        weights="random",
        limit=3,
        output=tmp_path,
        download=False,
    )
    assert len(results) == 4
    # Two defenses of three batches each; checking, attacking, scoring and both kinds of picture ask for nothing again.
    assert counted == {"updates": 6, "victims": 2}


def test_another_adversary_sees_the_same_update_and_what_it_is_told(small_case: Callable[..., Case]) -> None:
    context = load_case(small_case(defense="mjp"), torch.device("cpu"))
    unaware, secret = context.observe(0)
    threat_model = context.case.threat_model.model_copy(update={"adversary": "oracle", "labels": "known"})
    other = context.of(context.case.model_copy(update={"threat_model": threat_model}))
    oracle, same = other.observe(0)
    fresh, _ = load_case(other.case, torch.device("cpu")).observe(0)
    assert same is secret
    assert unaware.labels is None
    assert not unaware.disclosed
    for seen in (oracle, fresh):
        assert torch.equal(seen.labels, secret.labels)  # type: ignore[arg-type]
        assert seen.disclosed.keys() == secret.choices.keys()
        assert all(torch.equal(seen.update[name], value) for name, value in unaware.update.items())


def test_what_does_not_fit_in_memory_is_computed_again(
    small_case: Callable[..., Case], counted: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privbench.runner.context._KEPT_BYTES", 1)
    context = load_case(small_case(), torch.device("cpu"))
    first, _ = context.observe(0)
    context.observe(1)
    again, _ = context.observe(0)
    assert counted["updates"] == 3
    assert all(torch.equal(first.update[name], value) for name, value in again.update.items())
    # The secrets are small and stay.
    context.secret(1)
    assert counted["updates"] == 3


def test_the_suite_is_built_once(small_case: Callable[..., Case]) -> None:
    suites = Suites(download=False)
    context = load_case(small_case(), torch.device("cpu"))
    assert suites.suite(context) is suites.suite(context)
