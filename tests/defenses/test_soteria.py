"""Soteria: which features are pruned, that only the classifier's gradient changes, and what is read off it."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from privbench.adversary import simulate
from privbench.client import observe
from privbench.core import ModelInput, ModelSpec, ThreatModel, UserError, build_defense, resolve_defense
from privbench.defenses.soteria import (
    PrunedRepresentation,
    Soteria,
    estimated_sensitivity,
    feature_sensitivity,
    pruned_features,
)
from privbench.models import Victim, build_model, default_spec
from tests.conformance import client_update, simulated_gradients

WEIGHT = "network.head.weight"


class Small(nn.Module):
    """Few features, so that every derivative is cheap."""

    def __init__(self, features: int = 6) -> None:
        super().__init__()
        self.first = nn.Linear(3 * 8 * 8, 12)
        self.second = nn.Linear(12, features)
        self.head = nn.Linear(features, 4)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.second(torch.tanh(self.first(images.flatten(1))))
        logits: Tensor = self.head(features)
        return logits


def small(defense: Soteria | None = None) -> Victim:
    torch.manual_seed(3)
    victim = Victim(Small(), image_size=8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5))
    if defense is not None:
        defense.prepare_model(victim)
    return victim


def sent(victim: Victim, defense: str, images: Tensor) -> dict[str, Tensor]:
    observation, _ = observe(
        victim,
        ModelSpec(name="small", num_classes=4, image_size=8),
        build_defense(resolve_defense(defense)),
        images,
        torch.arange(len(images)),
        declared=resolve_defense(defense),
        threat_model=ThreatModel(),
        generator=torch.Generator().manual_seed(1),
    )
    return dict(observation.gradients)


def test_the_sensitivity_is_the_norm_of_the_jacobian_by_normalised_pixels(generator: torch.Generator) -> None:
    victim, images = small(Soteria()), torch.rand(2, 3, 8, 8, generator=generator)
    features, sensitivity = feature_sensitivity(victim, ModelInput(images))
    network = cast(Any, victim.network)

    def slow(normalised: Tensor) -> Tensor:
        hidden: Tensor = network.second(torch.tanh(network.first(normalised.flatten(1))))
        return hidden

    normalised = (images - victim.mean) / victim.std
    for image in range(2):
        jacobian = torch.func.jacrev(slow)(normalised[image : image + 1])
        assert torch.allclose(sensitivity[image], jacobian.reshape(6, -1).norm(dim=1), rtol=1e-5)
    assert torch.allclose(features, slow(normalised))


def test_random_directions_estimate_the_same_norms(generator: torch.Generator) -> None:
    """The mean over 4000 squares of normal numbers deviates by 2.2 %, its root by 1.1 %."""
    victim, batch = small(Soteria()), ModelInput(torch.rand(2, 3, 8, 8, generator=generator))
    features, exact = feature_sensitivity(victim, batch)
    read, estimated = estimated_sensitivity(victim, batch, 4000, generator)
    assert torch.equal(read, features)
    assert torch.allclose(estimated, exact, rtol=0.06)


def test_a_batch_is_pruned_by_directions_where_they_are_asked_for(generator: torch.Generator) -> None:
    victim, batch = small(Soteria()), ModelInput(torch.rand(8, 3, 8, 8, generator=generator))

    def kept(text: str) -> Tensor:
        defense = build_defense(resolve_defense(text))
        return defense.prepare_batch(victim, batch, torch.Generator().manual_seed(4)).model_input.layer_noise["head.kept"]

    exact, rough = kept("soteria:p=0.5"), kept("soteria:p=0.5,directions=1")
    assert torch.equal(kept("soteria:p=0.5,directions=1000"), exact)
    assert exact.sum() == rough.sum() == 8 * 3
    expected = pruned_features(*estimated_sensitivity(victim, batch, 1, torch.Generator().manual_seed(4)), 0.5)
    assert torch.equal(rough[0, 0] == 0, expected)


@pytest.mark.parametrize(("share", "count"), [(0.2, 2), (0.5, 5), (0.8, 8)])
def test_the_published_share_of_the_features_that_tell_most_is_pruned(share: float, count: int) -> None:
    """By hand: equal sensitivity, so that the importance falls as the feature grows."""
    features = torch.tensor([[0.0, 1, 2, 3, 4, 5, -6, -7, 8, 9]])
    pruned = pruned_features(features, torch.ones(1, 10), share)
    assert pruned.tolist() == [False] * (10 - count) + [True] * count
    # A feature that hardly moves with the image says much of it by its value.
    still = torch.ones(1, 10)
    still[0, 0] = 1e-6
    assert pruned_features(features, still, share)[0]
    # The batch decides together.
    both = torch.cat([features, features.flip(1)])
    weights = torch.tensor([[1.0], [1e-6]]).expand(2, 10)
    assert torch.equal(pruned_features(both, weights, share), pruned)


def test_only_columns_of_the_classifiers_gradient_change(generator: torch.Generator) -> None:
    images = torch.rand(2, 3, 8, 8, generator=generator)
    victim, defense = small(Soteria()), "soteria:p=0.5"
    plain, ours = sent(small(), "none", images), sent(victim, defense, images)
    pruned = pruned_features(*feature_sensitivity(victim, ModelInput(images)), 0.5)
    assert pruned.sum() == 3
    assert plain.keys() == ours.keys()
    for name, value in plain.items():
        expected = torch.where(pruned, 0, value) if name == WEIGHT else value
        assert torch.allclose(ours[name], expected, atol=1e-7)
    assert torch.allclose(victim(images), small()(images))


def test_an_evaluation_prunes_nothing(generator: torch.Generator) -> None:
    batch = ModelInput(torch.rand(2, 3, 8, 8, generator=generator))
    defense = Soteria()
    with torch.no_grad():
        assert defense.prepare_batch(small(defense), batch, generator).model_input is batch
    assert defense.prepare_batch(small(defense), batch, generator).model_input.layer_noise.keys() == {"head.kept"}


@pytest.fixture(scope="module")
def noisy() -> dict[str, Any]:
    text = "soteria:p=0.5+gradient-noise:std=1e-5"
    return {adversary: client_update(text, adversary=adversary) for adversary in ("unaware", "aware")}


def test_the_aware_reads_the_pruned_columns_off_the_gradient_even_under_noise(noisy: dict[str, Any]) -> None:
    update = noisy["aware"]
    known = simulate(update.observation).view.known["soteria.pruned"]
    truth = pruned_features(*feature_sensitivity(update.victim, ModelInput(update.secret.images)), 0.5)
    assert truth.sum() == 96
    assert torch.equal(known, truth)
    for adversary, explained in (("aware", True), ("unaware", False)):
        observation = noisy[adversary].observation
        ours = simulated_gradients(observation, update.secret.images, update.secret.labels)[WEIGHT]
        observed = observation.gradients[WEIGHT]
        assert bool((ours - observed).norm() < 0.02 * observed.norm()) is explained


def test_what_does_not_fit_is_one_line() -> None:
    defense = build_defense(resolve_defense("soteria"))
    victim = Victim(nn.Conv2d(3, 4, 8), image_size=8, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(UserError, match="soteria needs a model that ends in a fully connected layer with a bias, given Conv2d"):
        defense.prepare_model(victim)
    for wrong in ("p=0", "p=1", "p=-0.1"):
        with pytest.raises(UserError, match="defense soteria: p"):
            resolve_defense(f"soteria:{wrong}")
    for text in ("soteria+dpsgd", "dpsgd+soteria"):
        with pytest.raises(UserError, match=r"dpsgd does not go with soteria: one image would act .*; leave out one"):
            resolve_defense(text)


def test_it_fits_a_convolutional_classifier_too() -> None:
    victim = build_model(default_spec("cnn_mini_32"))
    names = victim.state_dict().keys()
    build_defense(resolve_defense("soteria")).prepare_model(victim)
    assert victim.state_dict().keys() == names
    assert isinstance(victim.get_submodule(victim.classifier_names()[0].removesuffix(".weight")), PrunedRepresentation)
