"""GradViT as declared: presets, switches, and that it really brings an image back."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from privbench.adversary import simulate
from privbench.attacks.gradvit import GradViT
from privbench.client import observe
from privbench.core import Observation, Progress, Secret, ThreatModel, UserError, build_defense, resolve_defense
from privbench.data import open_images
from privbench.models import load_victim, resolve_victim


def _observe(
    defense: str = "none",
    images: Tensor | None = None,
    labels: list[int] | None = None,
    threat: dict[str, Any] | None = None,
    model: str = "vit_mini_patch4_32",
) -> tuple[Observation, Secret]:
    specs = resolve_defense(defense)
    built = build_defense(specs)
    victim_spec = resolve_victim(model, "embedded", built)
    victim = load_victim(victim_spec, built, generator=torch.Generator().manual_seed(0))
    if images is None:
        images, found = open_images("photos").load([0], 32)
        labels = found.tolist()
    return observe(
        victim,
        victim_spec.model,
        built,
        images,
        torch.tensor(labels),
        declared=specs,
        threat_model=ThreatModel(**(threat or {})),
        generator=torch.Generator().manual_seed(5),
    )


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(11)


class Trace(Progress):
    def __init__(self) -> None:
        self.rows: list[tuple[int, str, dict[str, float]]] = []

    def report(self, step: int, total: int, phase: str, *losses: Any) -> None:
        self.rows.append((step, phase, dict(losses[0])))


def _psnr(images: Tensor, truth: Tensor) -> float:
    return float(-10 * torch.log10((images - truth).square().mean()))


def test_the_published_preset_has_the_published_numbers() -> None:
    paper = GradViT.from_preset("paper", {}).parameters()
    expected = {
        "steps": 120_000,
        "matching": "squared-error",
        "gradient": 4e-3,
        "bn_prior": 0.2,
        "patch_prior": 1e-4,
        "registration": 1e-2,
        "total_variation": 1e-4,
        "learning_rate": 0.1,
        "hold": 0.0,
        "start": "uniform",
        "relocation": False,
        "position_matching": 0.0,
        "position_error": 0.0,
        "schedule": "gradvit",
        "residual": "simulated",
        "layers": "all",
    }
    assert {name: paper[name] for name in expected} == expected


def test_switches_are_understood_as_text_and_wrong_ones_refused() -> None:
    attack = GradViT.from_preset("quick", {"relocation": "off", "schedule": "constant", "bn_prior": "0"}).parameters()
    assert (attack["relocation"], attack["schedule"], attack["bn_prior"]) == (False, "constant", 0.0)
    for wrong in ({"steps": "0"}, {"schedule": "sometimes"}, {"relocaton": "off"}, {"gradient": "-1"}):
        with pytest.raises(UserError):
            GradViT.from_preset("quick", wrong)
    with pytest.raises(UserError, match="unknown preset 'fast'"):
        GradViT.from_preset("fast", {})


def test_the_phases_of_the_schedule_are_reported_and_the_prior_is_on_in_the_second_only() -> None:
    trace = Trace()
    observation, _ = _observe()
    GradViT(steps=40, bn_prior=1e-3)(observation, generator=_generator(), progress=trace)
    assert [(step, phase) for step, phase, _ in trace.rows] == [
        (10, "matching"),
        (20, "matching"),
        (30, "matching and prior"),
        (40, "matching and prior"),
    ]
    assert ["bn" in losses for *_, losses in trace.rows] == [False, False, True, True]
    constant = Trace()
    GradViT(steps=20, bn_prior=1e-3, schedule="constant")(observation, generator=_generator(), progress=constant)
    assert all("bn" in losses for *_, losses in constant.rows)


def test_labels_are_recovered_unless_known() -> None:
    recovered, secret = _observe()
    assert recovered.labels is None
    result = GradViT(steps=1)(recovered, generator=_generator())
    assert result.labels is not None
    assert result.labels.tolist() == secret.labels.tolist()
    assert "labels-recovered" in result.flags


def test_known_labels_are_used_as_given() -> None:
    images, labels = open_images("photos").load([0], 32)
    observation, _ = _observe(images=images, labels=labels.tolist(), threat={"labels": "known"})
    assert observation.labels is not None
    result = GradViT(steps=1)(observation, generator=_generator())
    assert result.labels is not None
    assert result.labels.tolist() == labels.tolist()
    assert "labels-recovered" not in result.flags


def test_the_observed_residual_makes_the_simulated_gradient_exact_at_the_truth() -> None:
    images, labels = open_images("photos").load([2], 32)
    observation, secret = _observe(images=images, labels=labels.tolist())
    simulation = simulate(observation)
    for residual in ("observed", "simulated"):
        attack = GradViT(residual=residual)
        context = attack._residual(simulation, observation, labels)
        parameters = {name: p for name, p in simulation.model.named_parameters() if "head" not in name}
        gradients = torch.func.grad(attack._simulator(simulation, observation))(parameters, secret.images, context)
        for name, gradient in gradients.items():
            assert torch.allclose(gradient, observation.gradients[name], rtol=1e-3, atol=1e-6), name


COUNTS = {
    "all": 44,
    "first-block": 16,
    "embedding": 4,
    "position": 1,
    "patch-embedding": 2,
    "attention": 12,
    "mlp": 12,
    "head": 2,
    "block-0": 12,
    "block-2": 12,
}


@pytest.mark.parametrize(("layers", "count"), COUNTS.items())
def test_only_the_chosen_layers_are_matched(layers: str, count: int) -> None:
    observation, _ = _observe()
    attack = GradViT(layers=layers)
    assert sum(attack._matched(name) for name in observation.gradients) == count


def test_the_single_groups_are_disjoint_and_leave_class_token_and_norms() -> None:
    observation, _ = _observe()
    groups = [GradViT(layers=layers) for layers in ("position", "patch-embedding", "attention", "mlp", "head")]
    chosen = {name: sum(group._matched(name) for group in groups) for name in observation.gradients}
    assert set(chosen.values()) == {0, 1}
    assert all("norm" in name or "cls_token" in name for name, count in chosen.items() if not count)
    blocks = [GradViT(layers=f"block-{number}") for number in range(3)]
    assert all(sum(block._matched(name) for block in blocks) == ("blocks." in name) for name in observation.gradients)


def _without(observation: Observation, kept: Callable[[str], bool]) -> Observation:
    """The same update with noise in place of every gradient that is not kept."""
    generator = torch.Generator().manual_seed(3)
    changed = {
        name: value if kept(name) else torch.randn(value.shape, generator=generator)
        for name, value in observation.gradients.items()
    }
    return observation.with_gradients(changed)


@pytest.mark.parametrize("layers", ["position", "patch-embedding", "attention", "mlp", "head", "block-1"])
def test_a_single_group_is_all_that_an_attacker_with_known_labels_reads(layers: str) -> None:
    images, labels = open_images("photos").load([0], 32)
    observation, _ = _observe(images=images, labels=labels.tolist(), threat={"labels": "known"})
    # Relocation and the change to the second half lie within these steps.
    attack = GradViT(steps=12, layers=layers, relocation_every=2, bn_prior=0.0)
    whole = attack(observation, generator=_generator()).images
    assert torch.equal(whole, attack(_without(observation, attack._matched), generator=_generator()).images)
    other = attack(_without(observation, lambda _: False), generator=_generator()).images
    assert not torch.equal(whole, other)


@pytest.mark.parametrize(
    ("layers", "terms", "relocates"),
    [("first-block", 3, True), ("position", 3, True), ("attention", 1, False), ("head", 1, False), ("block-0", 1, False)],
)
def test_position_terms_and_relocation_act_only_where_the_position_rows_are_matched(
    layers: str, terms: int, relocates: bool
) -> None:
    observation, _ = _observe()
    simulation = simulate(observation)
    attack = GradViT(layers=layers)
    assert len(attack._matching_terms(simulation, simulation.model.state_dict())) == terms
    assert (attack._relocation(simulation, observation) is not None) == relocates


@pytest.mark.parametrize(
    ("layers", "observed"), [("first-block", True), ("embedding", True), ("head", True), ("mlp", False), ("block-2", False)]
)
def test_the_residual_is_observed_only_by_whoever_reads_the_classifier(layers: str, observed: bool) -> None:
    observation, secret = _observe()
    context = GradViT(layers=layers)._residual(simulate(observation), observation, secret.labels)
    assert list(context) == (["residual"] if observed else ["labels"])


@pytest.mark.parametrize(
    ("model", "defense", "layers", "accepted"),
    [
        ("vit_mini_patch4_32", "none", "block-3", "block-0, block-1, block-2"),
        ("vit_mini_patch4_32", "no-pe", "position", "embedding, patch-embedding, attention, mlp, head, block-0"),
        ("cnn_mini_32", "none", "attention", "all, first-block, embedding, head"),
    ],
)
def test_a_group_that_the_victim_lacks_is_refused_with_those_it_has(
    model: str, defense: str, layers: str, accepted: str
) -> None:
    observation, _ = _observe(defense, model=model)
    with pytest.raises(
        UserError, match=f"layers={layers}, and {model} .* has no such parameters; accepted for it: .*{accepted}"
    ):
        GradViT(layers=layers, bn_prior=0.0)(observation, generator=_generator())


@pytest.mark.parametrize("layers", ["attenton", "block", "block-x", "blocks-1", ""])
def test_a_group_that_does_not_exist_is_refused(layers: str) -> None:
    with pytest.raises(UserError, match=r"layers: .*no group of parameters; accepted: all, first-block"):
        GradViT.from_preset(None, {"layers": layers})


def test_a_convolutional_victim_is_attacked_without_the_prior_that_it_is() -> None:
    images, labels = open_images("photos").load([0], 32)
    observation, secret = _observe(images=images, labels=labels.tolist(), model="cnn_mini_32")
    result = GradViT(steps=4, bn_prior=0.0)(observation, generator=_generator())
    assert result.labels is not None
    assert result.labels.tolist() == secret.labels.tolist()
    assert set(result.losses) == {"matching", "gradient", "variation"}
    assert "relocation-does-not-apply" in result.flags


def test_batches_of_two_and_several_trials_have_the_right_shape() -> None:
    images, labels = open_images("photos").load([1, 3], 32)
    observation, _ = _observe(images=images, labels=labels.tolist())
    result = GradViT(steps=2, trials=2)(observation, generator=_generator())
    assert result.images.shape == (2, 3, 32, 32)
    assert result.labels is not None
    assert sorted(result.labels.tolist()) == sorted(labels.tolist())
    assert "relocation-does-not-apply" in result.flags
    assert result.steps == 4


@pytest.mark.nightly
def test_the_same_seed_gives_the_same_pixels_and_another_seed_others() -> None:
    observation, _ = _observe()
    attack = GradViT(steps=45)
    first = attack(observation, generator=_generator()).images
    assert torch.equal(first, attack(observation, generator=_generator()).images)
    assert not torch.equal(first, attack(observation, generator=torch.Generator().manual_seed(12)).images)


def test_a_few_steps_already_beat_the_control_without_gradient() -> None:
    images, labels = open_images("photos").load([3], 32)
    observation, secret = _observe(images=images, labels=labels.tolist())
    attack = GradViT(steps=160)(observation, generator=_generator())
    control = GradViT.from_preset("priors-only", {"steps": 160})(observation, generator=_generator())
    assert _psnr(attack.images, secret.images) > _psnr(control.images, secret.images) + 2


@pytest.mark.nightly
def test_a_photo_comes_back_recognisably_with_the_default_settings() -> None:
    images, labels = open_images("photos").load([3], 32)
    observation, secret = _observe(images=images, labels=labels.tolist())
    result = GradViT.from_preset(None, {})(observation, generator=_generator())
    assert _psnr(result.images, secret.images) > 20


@pytest.mark.nightly
def test_relocation_is_worth_decibels() -> None:
    images, labels = open_images("photos").load([3], 32)
    observation, secret = _observe(images=images, labels=labels.tolist())
    scores = {
        switch: _psnr(
            GradViT.from_preset(None, {"relocation": switch, "steps": 600})(observation, generator=_generator()).images,
            secret.images,
        )
        for switch in ("on", "off")
    }
    assert scores["on"] > scores["off"] + 2
