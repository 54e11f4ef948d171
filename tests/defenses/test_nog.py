"""NOG and OLR: the published formulas, what is a matrix, what is left of the row space, and what is expected behind it."""

import math
from statistics import fmean

import pytest
import torch
from torch import Tensor

from privbench.adversary import simulate
from privbench.closed_form.spectrum import smooth_images
from privbench.core import ATTACKS, UserError, build_defense, resolve_defense
from privbench.defenses.nog import (
    nearest_orthogonal,
    optimal_learning_rate,
)
from privbench.models import build_model, default_spec
from privbench.resolving.options import RunOptions
from privbench.resolving.resolve import resolve_cases
from privbench.runner.context import load_case
from tests.conformance import client_update, small_clients

__all__ = ["small_clients"]


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 3, 2, 2), (1, 5, 4)])
def test_it_is_the_nearest_matrix_with_orthonormal_rows_or_columns(shape: tuple[int, ...]) -> None:
    gradient = _random(*shape).double()
    ours = nearest_orthogonal(gradient)
    assert ours.shape == gradient.shape
    flat = ours.reshape(5, 4) if len(shape) == 3 else ours.flatten(1)
    small = flat @ flat.mT if flat.shape[0] < flat.shape[1] else flat.mT @ flat
    assert torch.allclose(small, torch.eye(len(small), dtype=torch.float64), atol=1e-12)
    distance = (ours - gradient).norm()
    for seed in range(20):
        # Any other orthonormal matrix, near and far, is further away.
        turned = flat + 10.0 ** -(seed % 4) * _random(*flat.shape, seed=seed + 1).double()
        other = torch.linalg.qr(turned.mT if flat.shape[0] < flat.shape[1] else turned)[0]
        other = other.mT if flat.shape[0] < flat.shape[1] else other
        signs = torch.sign((other * flat).sum(-1 if flat.shape[0] < flat.shape[1] else 0, keepdim=True))
        signs = signs if flat.shape[0] < flat.shape[1] else signs.reshape(1, -1)
        assert (other * signs - gradient.reshape(flat.shape)).norm() >= distance - 1e-12


def test_below_the_rank_the_published_form_adds_directions_and_a_cutoff_does_not() -> None:
    gradient = _random(8, 2) @ _random(2, 6, seed=1)
    published, cut = nearest_orthogonal(gradient), nearest_orthogonal(gradient, cutoff=1e-4)
    assert torch.allclose(torch.linalg.svdvals(published), torch.ones(6), atol=1e-5)
    assert torch.linalg.matrix_rank(cut, rtol=1e-4) == 2
    rows = torch.linalg.svd(gradient)[2][:2]
    assert torch.allclose(cut @ rows.T @ rows, cut, atol=1e-5)
    assert not torch.allclose(published @ rows.T @ rows, published, atol=0.5)
    assert torch.equal(nearest_orthogonal(torch.zeros(3, 4)), torch.zeros(3, 4))


@pytest.mark.parametrize(
    ("layers", "changed", "kept"),
    [
        (
            "all",
            ["patch_embed.proj.weight", "pos_embed", "blocks.1.attn.qkv.weight", "head.weight"],
            ["head.bias", "cls_token"],
        ),
        ("attention", ["blocks.0.attn.proj.weight"], ["blocks.0.mlp.fc1.weight", "pos_embed"]),
        ("mlp", ["blocks.2.mlp.fc2.weight"], ["blocks.2.mlp.fc2.bias", "blocks.0.attn.qkv.weight"]),
        ("embedding", ["patch_embed.proj.weight", "pos_embed"], ["cls_token", "head.weight"]),
        ("network.blocks.1", ["blocks.1.attn.qkv.weight"], ["blocks.0.attn.qkv.weight", "blocks.1.norm1.weight"]),
    ],
)
def test_layers_choose_the_matrices(layers: str, changed: list[str], kept: list[str]) -> None:
    plain, sent = client_update("none").observation.gradients, client_update(f"nog:layers={layers}").observation.gradients
    for name in changed:
        matrix = sent[f"network.{name}"]
        matrix = matrix[0] if matrix.dim() == 3 else matrix.flatten(1)
        values = torch.linalg.svdvals(matrix)
        assert torch.allclose(values, torch.ones_like(values), atol=1e-4)
    for name in kept:
        assert torch.equal(sent[f"network.{name}"], plain[f"network.{name}"])


def test_olr_is_a_newton_step_on_the_fourth_power_of_the_updated_weights_norm() -> None:
    """The published derivation minimises the second-order expansion in the rate of the squared Gram matrix of `w - rate l`."""
    for seed in range(10):
        weight, gradient = _random(3, 4, seed=seed).double(), _random(3, 4, seed=seed + 100).double()
        rate = torch.zeros((), dtype=torch.float64, requires_grad=True)
        power = (weight - rate * gradient).square().sum().square()
        (first,) = torch.autograd.grad(power, rate, create_graph=True)
        (second,) = torch.autograd.grad(first, rate)
        newton = float((-first / second).detach())
        expected = newton if newton > 0 else 1e6
        assert optimal_learning_rate(weight, gradient, 1e6) == pytest.approx(expected, rel=1e-12)
        assert optimal_learning_rate(weight, gradient, 1e-9) == 1e-9
    assert optimal_learning_rate(torch.zeros(2, 2), torch.zeros(2, 2), 0.1) == 0.1
    # By hand: w = (1, 0), l = (1, 1): (1 * 1) / (1 * 2 + 2 * 1) = 1/4.
    assert optimal_learning_rate(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0]), 1.0) == 0.25


def test_what_does_not_fit_is_one_line() -> None:
    victim = build_model(default_spec("vit_mini_patch4_32"))
    for layers in ("network.head.bias", "network.norm", "no-such"):
        with pytest.raises(
            UserError, match=f"finds no weight matrix of VisionTransformer under layers='{layers}'; accepted: all"
        ):
            build_defense(resolve_defense(f"nog:layers={layers}")).prepare_model(victim)
    with pytest.raises(UserError, match="no weight matrix of PriorCnn under layers='attention'"):
        build_defense(resolve_defense("nog:layers=attention")).prepare_model(build_model(default_spec("cnn_mini_32")))
    for wrong in ("cutoff=1", "cutoff=-0.1"):
        with pytest.raises(UserError, match="defense nog: cutoff"):
            resolve_defense(f"nog:{wrong}")


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.cosine_similarity(one.flatten().double(), other.flatten().double(), dim=0))


@pytest.mark.parametrize("batch", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_whoever_knows_of_it_comes_nearer_to_the_gradient_behind_it(batch: int) -> None:
    images = smooth_images(batch, 32, generator=torch.Generator().manual_seed(77))
    plain = client_update("none", images=images).observation.gradients
    observation = client_update("nog", images=images, adversary="aware").observation
    view = simulate(observation).view
    names = ["network.pos_embed", "network.patch_embed.proj.weight", "network.blocks.0.attn.qkv.weight"]
    found = view.expected([*names, "network.patch_embed.proj.bias"])
    assert found.keys() == set(names)  # the bias was sent as it is
    gains = []
    for name in names:
        sent, ours = (_cosine(gradients[name], plain[name]) for gradients in (observation.gradients, found))
        assert ours > sent + 0.05, name
        gains.append(ours - sent)
        # Its size too, which the factor does not have.
        assert 0.2 < float(found[name].norm() / plain[name].norm()) < 5, name
    assert fmean(gains) > 0.2
    assert view.remarks == ("singular-values-expected",)
    assert all(torch.equal(view.expected(names)[name], found[name]) for name in names)
    unaware = simulate(client_update("nog", images=images, adversary="unaware").observation).view
    assert not unaware.expected(names)
    assert not unaware.remarks


def test_only_chosen_layers_are_estimated_in_a_composition_too() -> None:
    observation = client_update("clipping+nog:layers=mlp", adversary="aware").observation
    names = ["network.pos_embed", "network.blocks.0.mlp.fc1.weight"]
    assert simulate(observation).view.expected(names).keys() == {"network.blocks.0.mlp.fc1.weight"}


def test_closed_form_sees_more_for_knowing_of_it() -> None:
    errors = {}
    for adversary in ("unaware", "aware"):
        options = RunOptions(defense="nog", attack="closed-form", adversary=adversary, data="photos", indices="0-3")
        photos = load_case(resolve_cases(options)[0], torch.device("cpu"))
        for number in range(4):
            observation, secret = photos.observe(number)
            found = photos.attack(observation, generator=torch.Generator().manual_seed(0)).images
            errors[adversary, number] = float((found - secret.images).square().mean())
    gains = [errors["unaware", number] / errors["aware", number] for number in range(4)]
    assert fmean(math.log10(gain) for gain in gains) > 0.1, gains  # one decibel in the mean


@pytest.mark.usefixtures("small_clients")
def test_an_attack_that_knows_the_transformation_does_another_step() -> None:
    images = {}
    for adversary in ("unaware", "aware"):
        update = client_update("nog", adversary=adversary, labels="known")
        attack = ATTACKS.get("gradvit").from_preset(None, {"steps": 3, "bn_prior": 0})
        images[adversary] = attack(update.observation, generator=torch.Generator().manual_seed(1)).images
    assert not torch.equal(images["unaware"], images["aware"])
