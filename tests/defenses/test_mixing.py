"""Mixup and InstaHide: coefficients, soft labels in the client's loss, what each adversary simulates, and refusals."""

import pytest
import torch
from torch import nn

from privbench.adversary import simulate
from privbench.core import ModelInput, UserError, build_defense, resolve_defense
from privbench.defenses.instahide import InstaHide, coefficients
from privbench.defenses.mixup import Mixup, mixed
from privbench.models import client_loss
from tests.conformance import client_update, simulated_gradients, some_images


def _weights(defense: Mixup, batch: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return defense.prepare_batch(nn.Identity(), ModelInput(torch.zeros(batch, 3, 4, 4)), generator).choices["mixup.weights"]


def test_one_coefficient_mixes_the_batch_with_itself_in_another_order() -> None:
    for seed in range(20):
        weights = _weights(Mixup(), 5, seed)
        assert torch.allclose(weights.sum(0), torch.ones(5))
        assert torch.allclose(weights.sum(1), torch.ones(5))
        share = next((float(one) for one in weights.diagonal() if one < 1), 1.0)
        for row, own in zip(weights, weights.diagonal(), strict=True):
            if own < 1:
                assert torch.allclose(row[row > 0].sort().values, torch.tensor(sorted([share, 1 - share])), atol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_coefficients_follow_the_beta_distribution_and_the_aware_knows_their_mean(alpha: float) -> None:
    draws = [_weights(Mixup(alpha=alpha), 40, seed).diagonal().min() for seed in range(2000)]
    shares = torch.stack(draws).double()
    expected = torch.distributions.Beta(alpha, alpha)
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.04)
    assert float(shares.var()) == pytest.approx(float(expected.variance), rel=0.1)
    fed = simulate(client_update(f"mixup:alpha={alpha}", batch=2, adversary="aware").observation).view.fed(
        ModelInput(some_images(2)), {}
    )
    assert fed.label_mixing is not None
    heavier = torch.maximum(shares, 1 - shares).mean()
    # Of two images one meets itself half the time.
    assert float(fed.label_mixing[0, 0]) == pytest.approx(float(heavier + (1 - heavier) / 2), abs=0.01)
    assert torch.equal(fed.images, some_images(2))


def test_images_and_labels_are_mixed_alike_and_the_loss_takes_both() -> None:
    update = client_update("mixup", batch=4)
    weights, images, labels = update.secret.choices["mixup.weights"], update.secret.images, update.secret.labels
    assert weights.diagonal().min() < 1
    by_hand = torch.stack([sum((weights[i, j] * images[j] for j in range(4)), torch.zeros(3, 32, 32)) for i in range(4)])
    assert torch.allclose(update.secret.fed, by_hand, atol=1e-6)
    logits = update.victim(by_hand)
    # As published: the loss is the mixture of the losses for both labels.
    expected = torch.stack(
        [weights[i, j] * nn.functional.cross_entropy(logits[i : i + 1], labels[j : j + 1]) for i in range(4) for j in range(4)]
    ).sum()
    loss = client_loss(update.victim, mixed(ModelInput(images), weights), labels)
    assert torch.allclose(loss, expected / 4, rtol=1e-5)
    (gradient,) = torch.autograd.grad(expected / 4, [update.victim.get_parameter("network.head.weight")])
    assert torch.allclose(update.observation.gradients["network.head.weight"], gradient, atol=1e-6)


def test_mixing_twice_mixes_labels_twice() -> None:
    first, second = _weights(Mixup(), 3, 1), _weights(Mixup(), 3, 2)
    twice = mixed(mixed(ModelInput(some_images(3)), first), second)
    assert twice.label_mixing is not None
    assert torch.allclose(twice.label_mixing, second @ first)
    probabilities = torch.eye(10)[[3, 4, 5]]
    assert torch.allclose(twice.targets(torch.tensor([3, 4, 5]), 10), second @ first @ probabilities)
    assert torch.allclose(twice.targets(probabilities, 10), second @ first @ probabilities)


@pytest.mark.parametrize(
    "text", ["mixup+naive-shuffle", "mixup+instahide", "precode+mixup", "stochastic-layers+mixup+clipping"]
)
def test_the_mixing_survives_a_defense_that_knows_nothing_of_it(text: str) -> None:
    update = client_update(text, batch=4, adversary="oracle")
    ours = simulated_gradients(update.observation, update.secret.images, update.secret.labels)
    name = "network.head.weight"
    assert torch.allclose(ours[name], update.observation.gradients[name], rtol=1e-3, atol=1e-6)


# InstaHide


@pytest.mark.parametrize(("k", "largest"), [(2, 0.65), (4, 0.65), (6, 0.3)])
def test_coefficients_sum_to_one_and_keep_the_bound(k: int, largest: float, generator: torch.Generator) -> None:
    shares = coefficients(2000, k, largest, generator)
    assert torch.allclose(shares.sum(1), torch.ones(2000))
    assert 0 <= shares.min() <= shares.max() <= largest
    # Without the bound the same draws exceed it.
    free = coefficients(2000, k, 1.0, generator)
    assert free.max() > largest
    # Rejection leaves the accepted ones as they were distributed.
    accepted = free[free.amax(1) <= largest]
    assert float(shares.square().sum(1).mean()) == pytest.approx(float(accepted.square().sum(1).mean()), rel=0.03)


def test_k_different_images_are_mixed_and_signs_flipped() -> None:
    defense, images = InstaHide(k=3), some_images(5)
    generator = torch.Generator().manual_seed(1)
    partners = set()
    for _ in range(30):
        protected = defense.prepare_batch(nn.Identity(), ModelInput(images), generator)
        weights, signs = protected.choices["instahide.weights"], protected.choices["instahide.signs"]
        assert ((weights > 0).sum(1) == 3).all()
        assert (weights.diagonal() > 0).all()
        assert weights.max() <= 0.65
        assert torch.allclose(weights.sum(1), torch.ones(5))
        partners |= {tuple(row.nonzero().flatten().tolist()) for row in weights}
        assert torch.equal(signs.abs(), torch.ones_like(signs))
        assert float(signs.mean()) == pytest.approx(0, abs=0.05)
        encoded = 2 * protected.model_input.images - 1
        mixture = torch.einsum("ij,jchw->ichw", weights, 2 * images - 1)
        assert torch.allclose(encoded * signs, mixture, atol=1e-5)
        assert protected.model_input.label_mixing is weights
    assert len(partners) == 10  # every choice of three out of five


@pytest.mark.parametrize(
    ("text", "flags"), [("mixup", {"mixing-not-inferred"}), ("instahide", {"mixing-not-inferred", "signs-not-inferred"})]
)
def test_the_aware_explains_the_encoded_images_better_than_the_unaware(text: str, flags: set[str]) -> None:
    errors = {}
    for adversary in ("unaware", "aware"):
        update = client_update(text, batch=4, adversary=adversary)
        assert set(simulate(update.observation).view.remarks) == (flags if adversary == "aware" else set())
        # What both recover is what the model was fed; the order is that of the heaviest image, as the aware names them.
        ours = simulated_gradients(update.observation, update.secret.fed, update.secret.labels)
        errors[adversary] = sum(
            float((ours[name] - value).square().sum()) for name, value in update.observation.gradients.items()
        )
    assert errors["aware"] < errors["unaware"]


@pytest.mark.parametrize(("text", "needed"), [("mixup", 2), ("instahide", 4), ("instahide:k=3", 3), ("naive-shuffle+mixup", 2)])
def test_a_batch_that_is_too_small_is_one_line(text: str, needed: int) -> None:
    name = text.partition(":")[0].rpartition("+")[2]
    with pytest.raises(
        UserError, match=f"defense {name} mixes the images of a batch and needs {needed} or more, given 1; raise"
    ):
        client_update(text, images=some_images(1))
    assert build_defense(resolve_defense(text)).smallest_batch() == needed


def test_what_does_not_fit_is_one_line() -> None:
    for wrong in ("alpha=0", "alpha=-1"):
        with pytest.raises(UserError, match="defense mixup: alpha"):
            resolve_defense(f"mixup:{wrong}")
    for wrong, said in (("k=1", "k"), ("k=17", "k"), ("largest=1.1", "largest"), ("largest=0.25", "accepted: 0.3 to 1")):
        with pytest.raises(UserError, match=f"defense instahide: .*{said}"):
            resolve_defense(f"instahide:{wrong}")
    for text in ("mixup+dpsgd", "dpsgd+instahide"):
        with pytest.raises(UserError, match=r"dpsgd does not go with (mixup|instahide): .*; leave out one"):
            resolve_defense(text)
