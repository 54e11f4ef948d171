"""Relocation matching: what is ours in it, and that it really brings an image back."""

from typing import Any

import pytest
import torch
from torch import Tensor

from privbench.adversary import simulate
from privbench.attacks.relocation_matching import RelocationMatching
from privbench.core import Progress
from privbench.data import open_images
from tests.attacks.clients import observe_client


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def _psnr(images: Tensor, truth: Tensor) -> float:
    return float(-10 * torch.log10((images - truth).square().mean()))


def test_the_observed_residual_makes_the_simulated_gradient_exact_at_the_truth() -> None:
    images, labels = open_images("photos").load([2], 32)
    observation, secret = observe_client(images=images, labels=labels.tolist())
    simulation = simulate(observation)
    for residual in ("observed", "simulated"):
        attack = RelocationMatching(residual=residual)
        context = attack._residual(simulation, observation, labels)
        parameters = {name: p for name, p in simulation.model.named_parameters() if "head" not in name}
        gradients = torch.func.grad(attack._simulator(simulation, observation))(parameters, secret.images, context)
        for name, gradient in gradients.items():
            assert torch.allclose(gradient, observation.gradients[name], rtol=1e-3, atol=1e-6), name


@pytest.mark.parametrize(
    ("layers", "terms", "relocates"),
    [("first-block", 3, True), ("position", 3, True), ("attention", 1, False), ("head", 1, False), ("block-0", 1, False)],
)
def test_position_terms_and_relocation_act_only_where_the_position_rows_are_matched(
    layers: str, terms: int, relocates: bool
) -> None:
    observation, _ = observe_client()
    simulation = simulate(observation)
    attack = RelocationMatching(layers=layers)
    assert len(attack._matching_terms(simulation, observation.update)) == terms
    assert (attack._relocation(simulation, observation) is not None) == relocates


@pytest.mark.parametrize(
    ("layers", "observed"), [("first-block", True), ("embedding", True), ("head", True), ("mlp", False), ("block-2", False)]
)
def test_the_residual_is_observed_only_by_whoever_reads_the_classifier(layers: str, observed: bool) -> None:
    observation, secret = observe_client()
    context = RelocationMatching(layers=layers)._residual(simulate(observation), observation, secret.labels)
    assert list(context) == (["residual"] if observed else ["labels"])


class _Trace(Progress):
    """The reported losses."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def report(self, step: int, total: int, phase: str, *losses: Any) -> None:
        self.rows.append(dict(losses[0]))


def test_a_few_steps_bring_the_gradients_nearer_and_weigh_them_by_half_in_the_second_half() -> None:
    images, labels = open_images("photos").load([1], 32)
    observation, _ = observe_client(images=images, labels=labels.tolist())
    trace = _Trace()
    found = RelocationMatching(steps=50)(observation, generator=_generator(), progress=trace)
    assert found.losses["gradient"] < 0.5 * trace.rows[0]["gradient"]
    assert found.losses["position"] < 0.8 * trace.rows[0]["position"]
    assert "position-error" not in trace.rows[0]
    weights = {"gradient": 1.0 / 2, "position": 0.3 / 2, "position-error": 0.1}
    weighed = sum(weight * found.losses[name] for name, weight in weights.items())
    assert found.losses["matching"] == pytest.approx(weighed, rel=1e-4)


@pytest.mark.nightly
def test_a_few_steps_already_beat_the_control_without_gradient() -> None:
    images, labels = open_images("photos").load([3], 32)
    observation, secret = observe_client(images=images, labels=labels.tolist())
    attack = RelocationMatching(steps=160)(observation, generator=_generator())
    control = RelocationMatching.from_preset("priors-only", {"steps": 160})(observation, generator=_generator())
    assert _psnr(attack.images, secret.images) > _psnr(control.images, secret.images) + 2


@pytest.mark.nightly
def test_a_photo_comes_back_recognisably_with_the_default_settings() -> None:
    images, labels = open_images("photos").load([3], 32)
    observation, secret = observe_client(images=images, labels=labels.tolist())
    result = RelocationMatching.from_preset(None, {})(observation, generator=_generator())
    assert _psnr(result.images, secret.images) > 20


@pytest.mark.nightly
def test_relocation_is_worth_decibels() -> None:
    images, labels = open_images("photos").load([3], 32)
    observation, secret = observe_client(images=images, labels=labels.tolist())
    scores = {}
    for switch in ("on", "off"):
        # The position terms put patches in their places too, so that little is left to it beside them.
        settings = {"relocation": switch, "steps": 600, "position_matching": 0.0, "position_error": 0.0}
        attack = RelocationMatching.from_preset(None, settings)
        scores[switch] = _psnr(attack(observation, generator=_generator()).images, secret.images)
    assert scores["on"] > scores["off"] + 2
