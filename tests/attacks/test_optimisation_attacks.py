"""The optimisation attacks of the field: published numbers, and that each does what its paper is about."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from privbench.attacks.dlg import DeepLeakage
from privbench.core import ATTACKS, MODELS, Attack, Observation, Progress, Reconstruction, UserError
from privbench.inversion import BatchNormStatistics
from privbench.models import PRIOR_OFF, load_prior
from privbench.models.zoo import Architecture
from tests.attacks.closed_forms import psnr, update
from tests.conformance import client_update

PUBLISHED: dict[str, dict[str, Any]] = {
    "dlg": {"steps": 300, "learning_rate": 1.0, "evaluations": 20, "start": "standard-normal"},
    "idlg": {
        "steps": 300,
        "learning_rate": 1.0,
        "evaluations": 20,
        "start": "standard-normal",
        "label_recovery": "idlg",
    },
    # 0.1 and 0.2 in normalised pixels of deviation 0.25.
    "inverting-gradients": {"steps": 24_000, "learning_rate": 0.025, "signed": True, "total_variation": 0.8, "start": "normal"},
    "gradinversion": {
        "steps": 20_000,
        "learning_rate": 0.1,
        "warmup": 50,
        "gradient": 1e-4,
        "total_variation": 1e-4,
        "squared_norm": 1e-6,
        "bn_prior": 0.1,
        "registration": 0.01,
        "label_recovery": "last-layer",
    },
}


class Trace(Progress):
    """The reported losses of the first victim."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def report(self, step: int, total: int, phase: str, *losses: Any) -> None:
        self.rows.append(dict(losses[0]))


def built(name: str, preset: str | None = None, **parameters: Any) -> Attack:
    component: type[Attack] = ATTACKS.get(name)
    return component.from_preset(preset, parameters)


def attacked(attack: Attack, observation: Observation, progress: Progress | None = None) -> Reconstruction:
    return attack(observation, generator=torch.Generator().manual_seed(1), progress=progress)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_preset_has_the_published_numbers(name: str) -> None:
    parameters = built(name, "paper").parameters()
    assert {key: parameters[key] for key in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "photo", "steps"),
    [
        ("inverting-gradients", 3, 59),
        # The victim is sure of most photos, whose gradients are small; these two match differences and not directions.
        pytest.param("gradinversion", 1, 150, marks=pytest.mark.nightly),
        pytest.param("april-optimisation", 1, 150, marks=pytest.mark.nightly),
    ],
)
def test_the_matching_loss_falls_on_the_embedded_victim(name: str, photo: int, steps: int) -> None:
    observation, _ = update(photo=photo)
    trace = Trace()
    result = attacked(built(name, steps=steps), observation, trace)
    assert result.losses["gradient"] * 1.5 < trace.rows[0]["gradient"]


def test_signed_steps_do_not_depend_on_the_size_of_the_gradient() -> None:
    # One cosine over everything: a clipped client is attacked exactly like one that is not.
    observation, _ = update(photo=3)
    gradients = {name: 2.0**-10 * value for name, value in observation.gradients.items()}
    clipped = observation.with_gradients(gradients)
    attack = built("inverting-gradients", steps=5)
    assert torch.allclose(attacked(attack, observation).images, attacked(attack, clipped).images, atol=1e-3)


@pytest.mark.nightly
def test_april_falls_by_its_position_term_alone_and_needs_a_learned_table() -> None:
    observation, _ = update(photo=3)
    trace = Trace()
    result = attacked(built("april-optimisation", gradient=0.0, position=1.0, steps=60), observation, trace)
    assert "gradient" not in result.losses
    assert result.losses["position"] < 0.7 * trace.rows[0]["position"]
    without, _ = update("no-pe")
    with pytest.raises(UserError, match="learned position embedding"):
        attacked(built("april-optimisation", steps=2), without)


@pytest.mark.nightly
def test_gradinversion_pulls_its_trials_together() -> None:
    observation, _ = update(photo=3)
    apart, together = (
        attacked(built("gradinversion", steps=40, registration=weight, gradient=1e-6, bn_prior=0.0), observation).losses
        for weight in (1e-9, 1.0)
    )
    assert together["registration"] < 0.2 * apart["registration"]
    single = attacked(built("gradinversion", steps=2, trials=1), observation)
    assert "registration" not in single.losses


@pytest.mark.parametrize("name", ["inverting-gradients", "gradinversion", "april-optimisation"])
def test_company_changes_nothing(name: str) -> None:
    pairs = [update(photo=photo) for photo in (0, 3)]
    attack = built(name, steps=4)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    together = attack.together([observation for observation, _ in pairs], generators=generators)
    alone = [
        attack(observation, generator=torch.Generator().manual_seed(seed)) for seed, (observation, _) in enumerate(pairs, 1)
    ]
    for ours, theirs in zip(together, alone, strict=True):
        assert isinstance(ours, Reconstruction)
        assert torch.allclose(ours.images, theirs.images, atol=1e-3)


@pytest.fixture
def sigmoid_network() -> Iterator[None]:
    """A smooth random network for 8x8 pixels, as the leakage papers have it, under the name `sigmoid`."""

    def build(num_classes: int, image_size: int) -> nn.Module:
        layers = [nn.Flatten(), nn.Linear(3 * image_size**2, 48), nn.Sigmoid(), nn.Linear(48, num_classes)]
        network = nn.Sequential(*layers)
        for parameter in network.parameters():
            nn.init.uniform_(parameter, -0.2, 0.2)
        return network

    plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    MODELS.register("sigmoid", Architecture("sigmoid", "for this test", image_size=8, num_classes=10, build=build, **plain))
    yield
    MODELS.unregister("sigmoid")


@pytest.mark.usefixtures("sigmoid_network")
@pytest.mark.parametrize("preset", ["quick", "paper"])
@pytest.mark.parametrize("name", ["dlg", "idlg"])
def test_deep_leakage_recovers_image_and_label_of_a_small_random_network(name: str, preset: str) -> None:
    observation, secret = update(model="sigmoid", weights="random", photo=1)
    attack = built(name, preset, steps=30, trials=6)  # of single starts about half end elsewhere
    result = attacked(attack, observation)
    assert psnr(result.images, secret.images) > 30
    assert result.labels is not None
    assert result.labels.tolist() == secret.labels.tolist()
    assert result.steps == 6 * 30


@pytest.mark.parametrize("name", ["dlg", "idlg"])
def test_the_published_start_is_standard_normal_in_normalised_pixels(name: str) -> None:
    observation, _ = update(photo=3)
    start = attacked(built(name, "paper", steps=1, evaluations=1, learning_rate=1e-9), observation).images
    # Around the normalisation's mean with its deviation, clamped: few pixels lie outside two deviations.
    assert start.mean() == pytest.approx(0.47, abs=0.03)
    assert start.std() == pytest.approx(0.24, abs=0.02)
    assert ((start == 0) | (start == 1)).double().mean() < 0.1


@pytest.mark.usefixtures("sigmoid_network")
def test_dlg_takes_known_labels_as_they_are_and_finds_those_of_a_batch() -> None:
    observation, secret = update(model="sigmoid", weights="random", photo=1, batch=2)
    result = attacked(DeepLeakage(steps=30), observation)
    assert result.labels is not None
    assert sorted(result.labels.tolist()) == sorted(secret.labels.tolist())
    known = replace(observation, labels=torch.tensor([7, 7]))
    told = attacked(DeepLeakage(steps=2), known)
    assert told.labels is not None
    assert told.labels.tolist() == [7, 7]
    assert "labels-recovered" not in told.flags


def test_the_statistics_of_a_convolutional_victim_pull_on_inverting_gradients() -> None:
    observation, _ = update(model="cnn_mini_32", weights="embedded", photo=1)
    without, with_them = (attacked(built("inverting-gradients", steps=40, bn_prior=weight), observation) for weight in (0, 0.1))
    assert "bn" not in without.losses
    statistics = BatchNormStatistics(load_prior("cnn_mini_32"), 32)
    before, after = (float(statistics(found.images[None])) for found in (without, with_them))
    assert after < 0.7 * before
    assert with_them.losses["bn"] == pytest.approx(after, rel=0.2)


@pytest.mark.parametrize("name", ["idlg", "inverting-gradients", "gradinversion", "april-optimisation"])
def test_repeated_labels_can_be_counted(name: str) -> None:
    plain = client_update(batch=3).observation
    fewer: dict[str, Any] = {"evaluations": 1} if name == "idlg" else {}
    attack = built(name, **fewer, steps=1, label_recovery="bias-counts")
    result = attacked(attack, plain)
    assert result.labels is not None
    assert result.labels.tolist() == [3, 4, 5]
    assert "labels-recovered" in result.flags


@pytest.mark.parametrize(
    "name",
    [
        "gradvit",
        "relocation-matching",
        pytest.param("gradinversion", marks=pytest.mark.nightly),
        pytest.param("inverting-gradients", marks=pytest.mark.nightly),
    ],
)
def test_a_prior_for_smaller_images_is_left_out_and_no_step_speaks_of_it(name: str) -> None:
    phases: list[str] = []

    class Phases(Progress):
        def report(self, step: int, total: int, phase: str, *losses: Any) -> None:
            assert "bn" not in losses[0]
            phases.append(phase)

    observation, _ = update(weights="random", image_size=40)
    found = attacked(built(name, steps=20, bn_prior=0.1), observation, Phases())
    assert PRIOR_OFF in found.flags
    assert phases
    assert not any("prior" in phase for phase in phases)
