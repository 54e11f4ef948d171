"""DP-SGD: against Opacus' own engine and the slow obvious method; its noise, its accountant, its refusals."""

import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from opacus.accountants import PRVAccountant
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from scipy import special, stats
from torch import Tensor, nn

from privbench.client import observe
from privbench.core import ModelSpec, ThreatModel, UserError, build_defense, resolve_defense
from privbench.models import Victim
from tests.conformance import client_update, simulated_gradients, some_images


class Network(nn.Module):
    """A small network of layers that Opacus' hooks know."""

    def __init__(self, *, normalised: bool = False) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 8, stride=8)
        self.norm = nn.BatchNorm2d(4) if normalised else nn.GroupNorm(2, 4)
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden: Tensor = self.head(torch.relu(self.norm(self.convolution(images))).flatten(1))
        return hidden


def small_victim(*, normalised: bool = False) -> Victim:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return Victim(Network(normalised=normalised), image_size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def update_of(victim: Victim, defense: str, batch: int = 5, seed: int = 0, **threat: str) -> Mapping[str, Tensor]:
    observation, _ = observe(
        victim,
        ModelSpec(name="test", num_classes=10, image_size=32),
        build_defense(resolve_defense(defense)),
        some_images(batch),
        torch.arange(batch),
        declared=resolve_defense(defense),
        threat_model=ThreatModel.model_validate(threat),
        generator=torch.Generator().manual_seed(seed),
    )
    return observation.gradients


def by_hand(victim: Victim, max_grad_norm: float, batch: int = 5) -> dict[str, Tensor]:
    """One backward pass per sample, clipped and averaged."""
    parameters = dict(victim.named_parameters())
    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for image, label in zip(some_images(batch), torch.arange(batch), strict=True):
        loss = nn.functional.cross_entropy(victim(image[None]), label[None])
        values = torch.autograd.grad(loss, list(parameters.values()))
        norm = torch.cat([value.flatten() for value in values]).norm()
        for name, value in zip(parameters, values, strict=True):
            total[name] += value * min(1.0, max_grad_norm / float(norm))
    return {name: value / batch for name, value in total.items()}


def by_opacus(victim: Victim, max_grad_norm: float, batch: int = 5) -> dict[str, Tensor]:
    """Opacus' hooks and optimizer, as its engine sets them up."""
    wrapped = GradSampleModule(victim)
    optimizer = DPOptimizer(
        torch.optim.SGD(wrapped.parameters(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=max_grad_norm,
        expected_batch_size=batch,
    )
    loss = nn.functional.cross_entropy(wrapped(some_images(batch)), torch.arange(batch))
    torch.autograd.backward(loss)
    optimizer.pre_step()
    found = {name: value.grad.clone() for name, value in victim.named_parameters() if value.grad is not None}
    wrapped.to_standard_module()
    return found


@pytest.mark.parametrize("max_grad_norm", [0.1, 2.0, 1e6])
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_without_noise_it_sends_what_opacus_and_the_slow_method_compute(max_grad_norm: float) -> None:
    victim = small_victim()
    found = update_of(victim, f"dpsgd:noise_multiplier=0,max_grad_norm={max_grad_norm}")
    slow, engine = by_hand(victim, max_grad_norm), by_opacus(small_victim(), max_grad_norm)
    assert found.keys() == slow.keys() == engine.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, slow[name], rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(value, engine[name], rtol=1e-4, atol=1e-7)


def test_with_a_wide_bound_and_no_noise_it_is_the_plain_gradient_of_a_vision_transformer() -> None:
    plain = client_update(batch=3).observation.gradients
    for defense in (
        "dpsgd:noise_multiplier=0,max_grad_norm=1e6",
        "mjp:mask_ratio=0.5+dpsgd:noise_multiplier=0,max_grad_norm=1e6",
    ):
        sent = client_update(defense, batch=3).observation.gradients
        expected = plain if defense.startswith("dpsgd") else client_update("mjp:mask_ratio=0.5", batch=3).observation.gradients
        for name, value in expected.items():
            torch.testing.assert_close(sent[name], value, rtol=1e-3, atol=1e-5)


def test_no_sample_moves_the_update_by_more_than_its_share() -> None:
    victim = small_victim()
    bound, batch = 0.2, 4
    defense = f"dpsgd:noise_multiplier=0,max_grad_norm={bound}"
    sent = update_of(victim, defense, batch)
    assert float(torch.cat([value.flatten() for value in sent.values()]).norm()) <= bound * (1 + 1e-5)
    fewer = update_of(victim, defense, batch - 1)
    moved = torch.cat([(sent[name] * batch - fewer[name] * (batch - 1)).flatten() for name in sent]).norm()
    assert float(moved) <= bound * (1 + 1e-4)
    assert float(moved) > 0.9 * bound


@pytest.mark.parametrize(("multiplier", "bound", "batch"), [(1.0, 1.0, 1), (0.5, 3.0, 4)])
def test_noise_has_the_deviation_of_the_sum_over_the_batch(multiplier: float, bound: float, batch: int) -> None:
    victim = small_victim()
    noisy = update_of(victim, f"dpsgd:noise_multiplier={multiplier},max_grad_norm={bound}", batch)
    clean = update_of(victim, f"dpsgd:noise_multiplier=0,max_grad_norm={bound}", batch)
    noise = torch.cat([(noisy[name] - clean[name]).flatten() for name in noisy]).double() / (multiplier * bound / batch)
    assert len(noise) > 1000
    assert stats.kstest(noise.numpy(), "norm").pvalue > 0.01
    assert 0.01 < stats.chi2.cdf(float(noise.square().sum()), df=len(noise)) < 0.99
    assert not 0.01 < stats.chi2.cdf(float((1.2 * noise).square().sum()), df=len(noise)) < 0.99


def test_noise_follows_the_generator() -> None:
    one, same, other = (update_of(small_victim(), "dpsgd", seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


# Accounting


def epsilon(**parameters: float) -> float:
    text = ",".join(f"{key}={value}" for key, value in parameters.items())
    defense: Any = build_defense(resolve_defense(f"dpsgd:{text}"))
    return float(defense.epsilon())


def test_epsilon_is_between_the_exact_one_of_a_single_gaussian_and_a_little_more() -> None:
    delta, sigma = 1e-5, 1.0

    def exact_delta(eps: float) -> float:
        # Balle and Wang, ICML 2018: delta of one Gaussian mechanism of sensitivity 1.
        upper, lower = 0.5 / sigma - eps * sigma, -0.5 / sigma - eps * sigma
        return float(stats.norm.cdf(upper) - math.exp(eps) * stats.norm.cdf(lower))

    found = epsilon(noise_multiplier=sigma, delta=delta)
    assert exact_delta(found) <= delta
    assert exact_delta(0.85 * found) > delta


def by_integration(sigma: float, rate: float, steps: int, delta: float) -> float:
    """Epsilon by Mironov et al. (arXiv 1908.10530) with integrals in place of their series, at Opacus' orders.

    Renyi's divergence of (1 - rate) N(0, sigma^2) + rate N(1, sigma^2) from N(0, sigma^2) adds up over the steps and is
    converted as by Balle et al. (AISTATS 2020, arXiv 1905.09982).
    """
    orders = [1 + tenth / 10 for tenth in range(1, 100)] + list(range(12, 64))
    found = []
    for order in orders:
        places = np.linspace(-40 * sigma, order + 40 * sigma, 20_001)
        absent = np.log1p(-rate) if rate < 1 else -np.inf
        log_ratio = np.logaddexp(absent, np.log(rate) + (2 * places - 1) / (2 * sigma**2))
        log_density = stats.norm.logpdf(places, scale=sigma)
        integral = special.logsumexp(log_density + order * log_ratio) + math.log(places[1] - places[0])
        divergence = steps * integral / (order - 1)
        found.append(divergence + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1))
    return float(min(found))


@pytest.mark.parametrize(
    ("sigma", "rate", "steps", "delta"),
    [(1.0, 1.0, 1, 1e-5), (2.0, 1.0, 10, 1e-5), (0.7, 0.25, 8, 1e-5), (1.1, 0.02, 500, 1e-6), (4.0, 0.1, 1000, 1e-5)],
)
@pytest.mark.filterwarnings("ignore")
def test_epsilon_is_that_of_the_integrals_and_a_little_above_the_tight_one(
    sigma: float, rate: float, steps: int, delta: float
) -> None:
    found = epsilon(noise_multiplier=sigma, sample_rate=rate, steps=steps, delta=delta)
    assert found == pytest.approx(by_integration(sigma, rate, steps, delta), rel=1e-6)
    # Five percent of noise or a little of the rate would show.
    assert abs(by_integration(1.05 * sigma, rate, steps, delta) / found - 1) > 0.03
    # Privacy random variables (Gopi et al., NeurIPS 2021) give the tight epsilon, to which Renyi's is an upper bound.
    tight = PRVAccountant()
    tight.history = [(sigma, rate, steps)]
    assert tight.get_epsilon(delta=delta) < found < 1.2 * tight.get_epsilon(delta=delta)


def test_a_large_delta_leaves_an_epsilon_of_zero_and_not_less() -> None:
    assert epsilon(delta=0.999) == 0
    assert epsilon(delta=0.5, noise_multiplier=3) == 0
    assert "epsilon 0 at delta 0.5" in build_defense(resolve_defense("dpsgd:delta=0.5,noise_multiplier=3")).guarantee()


@pytest.mark.parametrize("rate", [1e-300, 1e-6, 0.01, 1.0])
@pytest.mark.parametrize("noise", [1e-6, 1e6])
def test_at_the_ends_of_every_range_there_is_an_epsilon(noise: float, rate: float) -> None:
    for steps, delta in ((1, 1e-300), (10**9, 0.999)):
        assert 0 <= epsilon(noise_multiplier=noise, sample_rate=rate, steps=steps, delta=delta) < math.inf


def test_epsilon_falls_with_noise_and_subsampling_and_rises_with_steps() -> None:
    base = epsilon(noise_multiplier=1.0)
    assert epsilon(noise_multiplier=2.0) < base < epsilon(noise_multiplier=0.5)
    assert epsilon(noise_multiplier=1.0, sample_rate=0.01) < base < epsilon(noise_multiplier=1.0, steps=10)
    assert epsilon(noise_multiplier=1.0, delta=1e-3) < base
    assert math.isinf(epsilon(noise_multiplier=0))


def test_the_claim_states_epsilon_with_what_it_depends_on() -> None:
    text = "dpsgd:noise_multiplier=1.1,delta=1e-6,sample_rate=0.02,steps=500"
    claim = build_defense(resolve_defense(text)).guarantee()
    expected = epsilon(noise_multiplier=1.1, delta=1e-6, sample_rate=0.02, steps=500)
    for words in (f"epsilon {expected:.4g}", "delta 1e-06", "500 updates", "rate 0.02"):
        assert words in claim
    assert "infinite" in build_defense(resolve_defense("dpsgd:noise_multiplier=0")).guarantee()


# What an attacker simulates


@pytest.mark.parametrize("adversary", ["aware", "oracle"])
def test_who_knows_of_it_clips_what_is_longer_than_the_bound_and_trusts_no_entry(adversary: str) -> None:
    bound = 0.1
    update = client_update(f"dpsgd:noise_multiplier=0.01,max_grad_norm={bound}", adversary=adversary)
    view = update.view()
    assert not view.entries_are_exact
    assert view.transform_gradient is not None
    observed = update.observation.gradients
    longer = {name: torch.ones_like(value) for name, value in observed.items()}
    sent = view.transform_gradient(longer, observed, view.known)
    # A sum of millions of equal squares loses digits in float32.
    assert float(torch.cat([value.flatten() for value in sent.values()]).double().norm()) == pytest.approx(bound, rel=0.01)
    # One factor for all of them: the direction is that of the plain gradient.
    assert len({round(float(value.mean()), 9) for value in sent.values()}) == 1
    shorter = {name: 1e-6 * value for name, value in longer.items()}
    kept = view.transform_gradient(shorter, observed, view.known)
    assert all(torch.equal(kept[name], shorter[name]) for name in shorter)
    assert client_update("dpsgd:noise_multiplier=0", adversary=adversary).view().entries_are_exact


def test_who_does_not_know_of_it_compares_the_plain_gradient_and_takes_it_at_its_word() -> None:
    view = client_update("dpsgd", adversary="unaware").view()
    assert view.transform_gradient is None
    assert view.entries_are_exact
    assert not view.remarks


def test_at_the_private_image_the_expected_update_is_simulated() -> None:
    text = "dpsgd:noise_multiplier=0,max_grad_norm=0.1"
    distances = {}
    for adversary in ("unaware", "aware"):
        update = client_update(text, adversary=adversary, labels="known")
        simulated = simulated_gradients(update.observation, update.secret.images, update.secret.labels)
        apart = [(simulated[name] - value).flatten() for name, value in update.observation.gradients.items()]
        distances[adversary] = float(torch.cat(apart).norm())
    assert distances["aware"] < 1e-5
    assert distances["unaware"] > 0.1
    assert client_update(text, batch=2, adversary="aware").view().remarks == ("per-sample-clipping-not-simulated",)


# Refusals


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("noise_multiplier=1e-155", "noise_multiplier: so little noise .*accepted: 0, or from 1e-06 to 1e.06 .given: '1e-155'"),
        ("noise_multiplier=1e-300", "accepted: 0, or from 1e-06"),
        ("noise_multiplier=1e300", "noise_multiplier: .*less than or equal to 1000000"),
        ("max_grad_norm=1e-300", "max_grad_norm: .*greater than or equal to 0.000001"),
        ("max_grad_norm=1e300", "max_grad_norm: .*less than or equal to 1000000"),
        ("steps=1000000000000000", "steps: .*less than or equal to 1000000000"),
    ],
)
def test_what_cannot_be_accounted_for_is_refused_when_it_is_resolved(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        resolve_defense(f"dpsgd:{text}")
    assert "\n" not in str(caught.value)


def test_batch_normalisation_in_train_mode_is_refused() -> None:
    victim = small_victim(normalised=True)
    with pytest.raises(UserError, match="batch normalisation in train mode") as caught:
        update_of(victim, "dpsgd", model_mode="train")
    assert "\n" not in str(caught.value)
    assert update_of(victim, "dpsgd").keys() == dict(victim.named_parameters()).keys()


def test_without_opacus_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "opacus"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opacus", None)
    for use in (lambda: update_of(small_victim(), "dpsgd"), build_defense(resolve_defense("dpsgd")).guarantee):
        with pytest.raises(UserError, match=r"not installed.*privbench\[dp\]") as caught:
            use()
        assert "\n" not in str(caught.value)
