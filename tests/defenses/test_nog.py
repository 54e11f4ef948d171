"""NOG and OLR: the published formulas, what is a matrix, what is left of the row space, and the simulated transformation."""

import pytest
import torch
from torch import Tensor

from privbench.core import ATTACKS, Observation, UserError, build_defense, resolve_defense
from privbench.defenses.nog import (
    nearest_orthogonal,
    optimal_learning_rate,
)
from privbench.models import build_model, default_spec
from tests.conformance import client_update


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def aware() -> Observation:
    return client_update("nog", adversary="aware").observation


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


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (1, 5, 4)])
def test_the_simulated_factor_is_the_clients_and_its_slope_that_of_the_share_of_nuclear_norm(shape: tuple[int, ...]) -> None:
    gradient, observed = _random(*shape).double().requires_grad_(), nearest_orthogonal(_random(*shape, seed=1).double())
    send = build_defense(resolve_defense("nog")).attacker_view(torch.nn.Identity(), aware()).send
    assert send is not None
    sent = send({"weight": gradient}, {"weight": observed}, {})["weight"]
    assert torch.allclose(sent, nearest_orthogonal(gradient.detach()), atol=1e-12)
    (ours,) = torch.autograd.grad(torch.cosine_similarity(sent.flatten(), observed.flatten(), dim=0), gradient)
    # The slope of <O, G> / |G|* is along O - share U V, with the share in place of the cosine.
    factor, cosine = sent.detach(), torch.cosine_similarity(sent.flatten(), observed.flatten(), dim=0).detach()
    expected = observed - cosine * factor
    assert torch.allclose(ours / ours.norm(), expected / expected.norm(), atol=1e-10)
    flat = gradient.reshape(5, 4) if len(shape) == 3 else gradient
    share = (gradient * observed).sum() / torch.linalg.svdvals(flat).sum()
    (true,) = torch.autograd.grad(share, gradient)
    expected = observed - share.detach() * factor
    assert torch.allclose(true / true.norm(), expected / expected.norm(), atol=1e-10)


def test_an_attack_that_knows_the_transformation_does_another_step() -> None:
    images = {}
    for adversary in ("unaware", "aware"):
        update = client_update("nog", adversary=adversary, labels="known")
        attack = ATTACKS.get("gradvit").from_preset(None, {"steps": 3, "bn_prior": 0})
        images[adversary] = attack(update.observation, generator=torch.Generator().manual_seed(1)).images
    assert not torch.equal(images["unaware"], images["aware"])
