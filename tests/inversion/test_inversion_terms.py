"""Each term of the objective against a slow, obvious implementation and against finite differences."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from privbench.inversion import (
    BatchNormStatistics,
    ImagePrior,
    LayerCosine,
    PatchBorders,
    Registration,
    RowCosine,
    RowError,
    SquaredError,
    SquaredNorm,
    TotalVariation,
    whitening,
)


def _images(generator: torch.Generator, trials: int = 2, batch: int = 2, size: int = 8) -> Tensor:
    return torch.rand(trials, batch, 3, size, size, generator=generator, dtype=torch.float64)


def _tiny_cnn(generator: torch.Generator) -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5)).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, generator=generator)
    return network.eval().requires_grad_(False)


def _check_gradient(prior: ImagePrior, images: Tensor) -> None:
    """Central differences along a random direction."""
    images = images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(prior(images).sum(), [images])
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    step = 1e-6
    with torch.no_grad():
        slope = (prior(images + step * direction).sum() - prior(images - step * direction).sum()) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-5)


def test_total_variation_by_hand(generator: torch.Generator) -> None:
    images = _images(generator)
    for trial in range(2):
        down = [abs(float(images[trial, b, c, i + 1, j] - images[trial, b, c, i, j]))
                for b in range(2) for c in range(3) for i in range(7) for j in range(8)]  # fmt: skip
        right = [abs(float(images[trial, b, c, i, j + 1] - images[trial, b, c, i, j]))
                 for b in range(2) for c in range(3) for i in range(8) for j in range(7)]  # fmt: skip
        by_hand = sum(down) / len(down) + sum(right) / len(right)
        assert float(TotalVariation()(images)[trial]) == pytest.approx(by_hand)
    _check_gradient(TotalVariation(), images)


def test_patch_borders_by_hand(generator: torch.Generator) -> None:
    images = _images(generator, trials=1, batch=1, size=12)
    by_hand = 0.0
    for channel in range(3):
        for k in range(12):
            for border in (4, 8):
                by_hand += float(images[0, 0, channel, border, k] - images[0, 0, channel, border - 1, k]) ** 2
                by_hand += float(images[0, 0, channel, k, border] - images[0, 0, channel, k, border - 1]) ** 2
    assert float(PatchBorders(4)(images)) == pytest.approx(by_hand)
    _check_gradient(PatchBorders(4), images)


def test_patch_prior_pulls_at_borders_only_and_leaves_a_constant_image_alone(generator: torch.Generator) -> None:
    images = _images(generator, trials=1, batch=1).requires_grad_(True)
    (gradient,) = torch.autograd.grad(PatchBorders(4)(images).sum(), [images])
    touched = gradient[0, 0].abs().sum(0) > 0
    assert touched[3:5].all()
    assert touched[:, 3:5].all()
    assert not touched[[0, 1, 2, 5, 6, 7]][:, [0, 1, 2, 5, 6, 7]].any()
    constant = torch.full((1, 1, 3, 8, 8), 0.3)
    assert float(PatchBorders(4)(constant)) == 0.0


def test_patch_borders_see_a_jigsaw_that_variation_inside_patches_does_not() -> None:
    ramp = torch.linspace(0, 1, 8).expand(1, 1, 3, 8, 8)
    swapped = torch.cat([ramp[..., 4:], ramp[..., :4]], dim=-1)
    assert float(PatchBorders(4)(swapped)) > 10 * float(PatchBorders(4)(ramp))


def test_squared_norm_and_registration_by_hand(generator: torch.Generator) -> None:
    images = _images(generator, trials=3)
    assert SquaredNorm()(images)[1].item() == pytest.approx(float((images[1] - 0.5).pow(2).mean()))
    _check_gradient(SquaredNorm(), images)
    consensus = (images[0] + images[1] + images[2]) / 3
    assert Registration()(images)[2].item() == pytest.approx(float((images[2] - consensus).pow(2).mean()))
    assert float(Registration()(images[:1])) == 0.0


def test_registration_pulls_each_trial_towards_the_consensus(generator: torch.Generator) -> None:
    images = _images(generator, trials=3).requires_grad_(True)
    before = Registration()(images).sum()
    (gradient,) = torch.autograd.grad(before, [images])
    with torch.no_grad():
        assert Registration()(images - 10 * gradient).sum() < before.detach()


def test_bn_prior_by_hand_and_by_finite_differences(generator: torch.Generator) -> None:
    network = _tiny_cnn(generator)
    images = _images(generator)
    by_hand = torch.zeros(2, dtype=torch.float64)
    for trial in range(2):
        feature: Any = images[trial]
        for layer in network:  # type: ignore[attr-defined]
            if isinstance(layer, nn.BatchNorm2d):
                for channel in range(feature.shape[1]):
                    values = feature[:, channel].flatten()
                    mean = values.sum() / len(values)
                    variance = ((values - mean) ** 2).sum() / len(values)
                    assert layer.running_mean is not None
                    assert layer.running_var is not None
                    by_hand[trial] += (mean - layer.running_mean[channel]) ** 2
                    by_hand[trial] += (variance - layer.running_var[channel]) ** 2
            feature = layer(feature)
    prior = BatchNormStatistics(network, 8)
    assert torch.allclose(prior(images), by_hand)
    _check_gradient(prior, images)


def test_bn_prior_is_near_zero_on_the_images_that_the_statistics_came_from(generator: torch.Generator) -> None:
    network = _tiny_cnn(generator)
    source = torch.rand(16, 3, 8, 8, generator=generator, dtype=torch.float64)
    feature: Tensor = source
    for layer in network:  # type: ignore[attr-defined]
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean = feature.mean((0, 2, 3))
            layer.running_var = feature.var((0, 2, 3), unbiased=False)
        feature = layer(feature)
    prior = BatchNormStatistics(network, 8)
    assert float(prior(source[None])) < 1e-20
    assert float(prior(torch.zeros_like(source)[None])) > 0.1


def test_bn_prior_averages_larger_candidates_down(generator: torch.Generator) -> None:
    network = _tiny_cnn(generator)
    small = _images(generator)
    large = small.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    prior = BatchNormStatistics(network, 8)
    assert torch.allclose(prior(large), prior(small))


def test_bn_prior_refuses_a_network_that_would_move_or_has_no_statistics(generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match="frozen and in eval mode"):
        BatchNormStatistics(_tiny_cnn(generator).train(), 8)
    with pytest.raises(ValueError, match="frozen and in eval mode"):
        BatchNormStatistics(_tiny_cnn(generator).requires_grad_(True), 8)
    with pytest.raises(ValueError, match="no batch-normalisation"):
        BatchNormStatistics(nn.Conv2d(3, 3, 1).eval().requires_grad_(False), 8)


def test_bn_prior_leaves_no_hooks_and_no_statistics_changed(generator: torch.Generator) -> None:
    network = _tiny_cnn(generator)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    BatchNormStatistics(network, 8)(_images(generator))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())


def _gradients(generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    shapes = {"pe": (1, 5, 4), "w": (3, 2), "unused": (2,)}
    ours = {k: torch.randn(2, *shape, generator=generator, dtype=torch.float64) for k, shape in shapes.items()}
    target = {k: torch.randn(*shape, generator=generator, dtype=torch.float64) for k, shape in shapes.items()}
    target["unused"] = torch.zeros(2, dtype=torch.float64)
    return ours, target


def test_squared_error_by_hand(generator: torch.Generator) -> None:
    ours, target = _gradients(generator)
    for trial in range(2):
        by_hand = sum(
            (float(a) - float(b)) ** 2
            for name in target
            for a, b in zip(ours[name][trial].flatten(), target[name].flatten(), strict=True)
        )
        assert float(SquaredError()(ours, target)[trial]) == pytest.approx(by_hand)


def test_layer_cosine_by_hand_ignores_scale_and_parameters_without_direction(generator: torch.Generator) -> None:
    ours, target = _gradients(generator)
    expected = []
    for name in ("pe", "w", "unused"):
        a, b = ours[name][0].flatten(), target[name].flatten()
        expected.append(1 - float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)) if b.any() else 0.0)
    assert float(LayerCosine()(ours, target)[0]) == pytest.approx(sum(expected) / 3)
    scaled = {name: value * 17 for name, value in ours.items()}
    assert torch.allclose(LayerCosine()(scaled, target), LayerCosine()(ours, target))


def test_row_cosine_by_hand(generator: torch.Generator) -> None:
    ours, target = _gradients(generator)
    target["pe"][0, 2] = 0  # a masked position says nothing
    rows = [0, 1, 3]
    by_hand = [1 - float(torch.cosine_similarity(ours["pe"][1, 0, r], target["pe"][0, r], dim=0)) for r in rows]
    assert float(RowCosine("pe", 4)(ours, target)[1]) == pytest.approx(sum(by_hand) / 3)


def test_row_error_by_hand(generator: torch.Generator) -> None:
    ours, target = _gradients(generator)
    sizes = [float(target["pe"][0, r].pow(2).sum()) for r in range(4)]
    by_hand = [
        float((ours["pe"][1, 0, r] - target["pe"][0, r]).pow(2).sum()) / (sizes[r] + 0.1 * sum(sizes) / 4) for r in range(4)
    ]
    assert float(RowError("pe", 4)(ours, target)[1]) == pytest.approx(sum(by_hand) / 4)


@pytest.mark.parametrize("distance", [SquaredError(), LayerCosine(), RowCosine("pe", 5), RowError("pe", 5)])
def test_distances_vanish_where_gradients_agree_and_have_finite_slopes_at_zero(
    distance: Any, generator: torch.Generator
) -> None:
    _, target = _gradients(generator)
    same = {name: value[None] for name, value in target.items()}
    assert float(distance(same, target)) == pytest.approx(0, abs=1e-9)
    zero = {name: torch.zeros_like(value)[None].requires_grad_(True) for name, value in target.items()}
    slopes = torch.autograd.grad(distance(zero, target).sum(), list(zero.values()), allow_unused=True)
    assert all(torch.isfinite(slope).all() for slope in slopes if slope is not None)


def test_whitening_makes_singular_values_alike_above_the_floor_and_leaves_weak_ones_weak(generator: torch.Generator) -> None:
    rows = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    sizes = torch.linalg.svdvals(rows)
    weighted = torch.linalg.svdvals(whitening(rows, 0.1) @ rows.T)
    assert torch.allclose(weighted.sort().values, (sizes / (sizes / sizes[0] + 0.1)).sort().values)
    # Equations in which no observed row takes part count most.
    assert torch.linalg.svdvals(whitening(rows, 0.1))[:2] == pytest.approx(10.0)
