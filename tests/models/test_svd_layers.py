"""SVD meta-layers: forward by definition, backward by float64 finite differences, where eigenvalues are equal too."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from privbench.core import ModelSpec
from privbench.models import build_model
from privbench.models.svd_cnn import SvdCnn
from privbench.models.svd_layers import (
    DecorrelatedBatchNorm,
    GlobalCovariancePooling,
    condition_number,
    covariance,
    matrix_square_root,
)


def rotation(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    turn: Tensor = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    return turn


def with_eigenvalues(*values: float) -> Tensor:
    turn = rotation(len(values))
    made: Tensor = (turn * torch.tensor(values, dtype=torch.float64)) @ turn.T
    return made


MATRICES = {
    "apart": with_eigenvalues(0.5, 1.0, 2.0, 5.0),
    "two equal": with_eigenvalues(1.0, 1.0, 2.0, 3.0),
    "all equal": with_eigenvalues(2.0, 2.0, 2.0, 2.0),
    "nearly equal": with_eigenvalues(1.0, 1.0 + 1e-12, 1.0 + 1e-9, 3.0),
    "ill-conditioned": with_eigenvalues(1e-3, 1e-3, 1.0, 10.0),
}


def numeric(function: object, matrix: Tensor, direction: Tensor, step: float = 1e-5) -> float:
    """The derivative along a direction, by central differences of fourth order."""
    values = [float((function(matrix + factor * step * direction) * WEIGHTS).sum()) for factor in (2, 1, -1, -2)]  # type: ignore[operator]
    return (-values[0] + 8 * values[1] - 8 * values[2] + values[3]) / (12 * step)


WEIGHTS = torch.randn(4, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@pytest.mark.parametrize("name", MATRICES)
def test_the_root_is_one_and_its_derivative_is_that_of_finite_differences(name: str) -> None:
    matrix = MATRICES[name]
    root = matrix_square_root(matrix)
    assert torch.allclose(root @ root, matrix, atol=1e-12)
    assert torch.allclose(root, root.T, atol=1e-13)
    given = matrix.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad((matrix_square_root(given) * WEIGHTS).sum(), [given])
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        drawn = torch.randn(4, 4, generator=generator, dtype=torch.float64)
        direction = drawn + drawn.T
        expected = numeric(matrix_square_root, matrix, direction)
        assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", ["apart", "two equal", "all equal"])
def test_the_root_can_be_differentiated_twice(name: str) -> None:
    def symmetric(free: Tensor) -> Tensor:
        return matrix_square_root((free + free.T) / 2)

    assert gradcheck(symmetric, MATRICES[name].clone().requires_grad_(True), atol=1e-6)
    assert gradgradcheck(symmetric, MATRICES[name].clone().requires_grad_(True), atol=1e-5)


def test_the_root_works_in_batches_and_under_vmap() -> None:
    batch = torch.stack(list(MATRICES.values()))
    assert torch.allclose(matrix_square_root(batch), torch.stack([matrix_square_root(one) for one in batch]))

    def slope(matrix: Tensor) -> Tensor:
        found: Tensor = torch.func.grad(lambda given: (matrix_square_root(given) * WEIGHTS).sum())(matrix)
        return found

    assert torch.allclose(torch.func.vmap(slope)(batch), torch.stack([slope(one) for one in batch]))


def test_decorrelated_batch_norm_whitens_and_its_gradient_is_that_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(6, 3, 4, 4, generator=generator, dtype=torch.float64)
    # Two channels with the same variance and nothing in common: equal eigenvalues.
    features[:, 2] = 0.3 * features[:, 0] + features[:, 2]
    layer = DecorrelatedBatchNorm(3, eps=1e-9).double()
    white = covariance(layer(features).transpose(0, 1).flatten(1))
    assert torch.allclose(white, torch.eye(3, dtype=torch.float64), atol=1e-6)
    published = DecorrelatedBatchNorm(3).double()
    assert gradcheck(published, features.requires_grad_(True), atol=1e-6)
    # ZCA and not another whitening: no rotation beside the inverse root.
    matrix = covariance(features.detach().transpose(0, 1).flatten(1)) + 1e-2 * torch.eye(3, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(matrix)
    flat = features.detach().transpose(0, 1).flatten(1)
    expected = (vectors / values.sqrt()) @ vectors.T @ (flat - flat.mean(1, keepdim=True))
    found = published(features.detach()).transpose(0, 1).flatten(1)
    assert torch.allclose(found, expected, atol=1e-9)


def test_in_eval_mode_decorrelation_is_by_the_running_covariance() -> None:
    features = (
        torch.randn(64, 4, 5, 5, generator=torch.Generator().manual_seed(2)) * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None]
    )
    layer = DecorrelatedBatchNorm(4, momentum=1.0)
    trained = layer(features)
    assert condition_number(layer.matrices(features)) == pytest.approx(16, rel=0.2)
    assert torch.allclose(layer.eval()(features), trained, atol=1e-4)


def test_covariance_pooling_is_the_upper_triangle_of_the_root_with_finite_difference_gradients() -> None:
    features = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    layer = GlobalCovariancePooling(3)
    root = layer(features)[0]
    full = torch.zeros(3, 3, dtype=torch.float64)
    full[layer.rows, layer.columns] = root
    full = full + full.triu(1).T
    assert torch.allclose(full @ full, covariance(features[0].flatten(1)), atol=1e-12)
    assert gradcheck(layer, features.requires_grad_(True), atol=1e-6)


@pytest.mark.parametrize("meta", ["decorrelated", "covariance"])
def test_victims_with_a_meta_layer_classify_and_train(meta: str) -> None:
    victim = build_model(ModelSpec(name=f"cnn_{meta}_32", num_classes=10, image_size=32))
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert victim.eval()(images).shape == (8, 10)
    network = victim.train().network
    assert isinstance(network, SvdCnn)
    victim(images).sum().backward()
    assert network.pre_svd.weight.grad is not None
    assert torch.isfinite(network.pre_svd.weight.grad).all()
