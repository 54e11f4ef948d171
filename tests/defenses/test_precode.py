"""PRECODE: the divergence, the update that it is part of, and that one image's noise can be read off it."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from privbench.adversary import simulate
from privbench.core import ModelInput, UserError, build_defense, resolve_defense
from privbench.defenses.precode import Precode, VariationalBottleneck, sampled_noise
from privbench.models import build_model, client_loss, default_spec, forward, resolve_victim
from tests.conformance import client_update, simulated_gradients, some_images

CHOICE = "precode.noise"
BOTTLENECK = "network.head_drop.bottleneck"


def test_the_penalty_is_the_divergence_from_the_standard_normal_in_bits(generator: torch.Generator) -> None:
    layer, features = VariationalBottleneck(5, 7, beta=0.3), torch.randn(4, 5, generator=generator)
    mean, std = layer.latent(features)
    divergence = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum(1)
    assert torch.allclose(layer.penalty(features), 0.3 * divergence / math.log(2), rtol=1e-5)


def test_the_latent_is_sampled_around_its_mean(generator: torch.Generator) -> None:
    layer, features = VariationalBottleneck(3, 2, beta=0.0), torch.randn(1, 3, generator=generator)
    mean, std = layer.latent(features)
    draws = torch.randn(20_000, 2, generator=generator)
    layer.decoder = nn.Linear(2, 2, bias=False)
    nn.init.eye_(layer.decoder.weight)
    samples = torch.func.functional_call(layer, {"noise": draws}, (features.expand(20_000, 3),))
    assert torch.allclose(samples.mean(0), mean[0], atol=0.05)
    assert torch.allclose(samples.std(0), std[0], rtol=0.03)
    assert torch.equal(layer(features), mean)


def test_the_divergence_is_part_of_the_loss_and_of_the_update() -> None:
    defense = Precode(beta=0.5)
    victim = defense.prepare_model(build_model(default_spec("vit_mini_patch4_32")).eval())
    given, labels = ModelInput(some_images(2)), torch.tensor([1, 2])
    logits, penalty = forward(victim, given)  # type: ignore[arg-type]
    assert penalty is not None
    assert float(penalty.detach()) > 0
    whole = client_loss(victim, given, labels)  # type: ignore[arg-type]
    assert torch.allclose(whole, nn.functional.cross_entropy(logits, labels) + penalty)
    # The latent's deviation has a gradient from the divergence alone where the mean is decoded.
    (gradient,) = torch.autograd.grad(whole, [victim.get_parameter(f"{BOTTLENECK}.encoder.bias")])
    assert gradient[256:].abs().min() > 0
    weights = client_update("precode:beta=0"), client_update("precode:beta=0.5")
    name = f"{BOTTLENECK}.encoder.weight"
    one, other = (update.observation.gradients[name] for update in weights)
    assert (one - other).norm() > 0.1 * one.norm()


@pytest.mark.parametrize("beta", [0.0, 1e-3])
def test_the_noise_of_one_image_is_read_off_the_update(beta: float) -> None:
    update = client_update(f"precode:beta={beta}", adversary="aware")
    assert dict(update.observation.disclosed) == {}
    view = simulate(update.observation).view
    assert view.remarks == ("draw-inferred",)
    assert torch.allclose(view.known[CHOICE], update.secret.choices[CHOICE], atol=1e-3)
    ours = simulated_gradients(update.observation, update.secret.images, update.secret.labels)
    for name, observed in update.observation.gradients.items():
        assert (ours[name] - observed).norm() <= 1e-4 * observed.norm() + 1e-9


@pytest.mark.parametrize(("text", "batch"), [("precode", 2), ("precode+gradient-noise:std=0.01", 1)])
def test_where_the_noise_cannot_be_read_the_stochastic_gradients_are_left_out(text: str, batch: int) -> None:
    update = client_update(text, batch=batch, adversary="aware")
    view = simulate(update.observation).view
    assert "draw-not-inferred" in view.remarks
    assert CHOICE not in view.known
    assert view.transform_gradient is not None
    observed = update.observation.gradients
    sent = view.transform_gradient({name: torch.zeros_like(value) for name, value in observed.items()}, observed, view.known)
    for name, value in sent.items():
        left_out = name.startswith((BOTTLENECK, "network.head."))
        assert torch.equal(value, observed[name]) if left_out else not value.any()


def test_noise_is_standard_normal_and_one_for_each_image(generator: torch.Generator) -> None:
    drawn = Precode().prepare_batch(nn.Identity(), ModelInput(some_images(64)), generator).choices[CHOICE]
    assert drawn.shape == (64, 256)
    error = 4 / math.sqrt(drawn.numel())
    assert float(drawn.mean()) == pytest.approx(0, abs=error)
    assert float(drawn.std()) == pytest.approx(1, abs=error)
    assert len(torch.unique(drawn[:, 0])) == 64


def test_a_batch_is_a_sum_from_which_no_noise_is_read() -> None:
    update = client_update("precode", batch=2)
    assert sampled_noise(update.victim, update.observation) is None


def test_what_does_not_fit_is_one_line() -> None:
    defense = build_defense(resolve_defense("precode"))
    with pytest.raises(UserError, match="precode needs a vision transformer with a linear classifier, given PriorCnn"):
        defense.prepare_model(build_model(default_spec("cnn_mini_32")))
    with pytest.raises(UserError, match="no embedded weights of vit_mini_patch4_32 trained with precode; pass --weights"):
        resolve_victim("vit_mini_patch4_32", "embedded", defense)
    for wrong in ("size=0", "beta=-1"):
        with pytest.raises(UserError, match=f"defense precode: {wrong.partition('=')[0]}"):
            resolve_defense(f"precode:{wrong}")
    with pytest.raises(UserError, match=r"different victims \(mjp, precode\) do not compose"):
        build_defense(resolve_defense("mjp+precode")).trained_as()


def test_it_goes_with_clipping_each_sample() -> None:
    update = client_update("precode+dpsgd:noise_multiplier=0,max_grad_norm=1e6", batch=2)
    plain = client_update("precode", batch=2)
    for name, value in plain.observation.gradients.items():
        assert torch.allclose(update.observation.gradients[name], value, atol=1e-5)
