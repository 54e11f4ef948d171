"""All patches from the whole update: what is off comes back, what is far off is left alone."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from privbench.adversary import simulate
from privbench.core import Observation, Progress, Secret
from privbench.core.patches import from_patches, to_patches
from privbench.refinement import refined, rest_of, unexplained
from privbench.refinement.sketch import sketch
from privbench.refinement.step import Point, Slope, Variables
from privbench.refinement.update import Update, without
from tests.attacks.closed_forms import psnr, update

pytestmark = pytest.mark.integration

_LITTLE = 1e-6
"""About how far patches are off that are not disturbed: the rounding of images in float32."""


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privbench.refinement.solve._ITERATIONS", (20, 30))
    monkeypatch.setattr("privbench.refinement.solve._DENSE", 0)


@pytest.fixture(scope="module")
def sent() -> tuple[Observation, Secret]:
    return update(batch=2)


def _disturbed(images: Tensor, spread: Tensor) -> Tensor:
    patches = to_patches(images, 4)
    noise = torch.randn(patches.shape, generator=torch.Generator().manual_seed(0))
    return from_patches((patches + spread[:, :, None, None, None] * noise).clamp(0, 1), 32, 32)


def test_a_patch_comes_back(sent: tuple[Observation, Secret]) -> None:
    observation, secret = sent
    spread = torch.full((2, 64), _LITTLE)
    spread[1, 27] = 0.005
    near = _disturbed(secret.images, spread)
    found = refined(simulate(observation), observation, near, secret.labels, spread, Progress())
    assert psnr(found, secret.images) > psnr(near, secret.images) + 10


@pytest.mark.nightly
@pytest.mark.parametrize(("dense", "gain"), [(0, 1), (8192, 20)])
def test_all_patches_come_nearer_where_all_are_off(
    sent: tuple[Observation, Secret], monkeypatch: pytest.MonkeyPatch, dense: int, gain: float
) -> None:
    monkeypatch.setattr("privbench.refinement.solve._DENSE", dense)
    observation, secret = sent
    spread = torch.full((2, 64), 1e-4)
    spread[1] = 1e-3
    near = _disturbed(secret.images, spread)
    found = refined(simulate(observation), observation, near, secret.labels, spread, Progress())
    assert psnr(found, secret.images) > psnr(near, secret.images) + gain


def test_a_sketch_keeps_the_length_of_what_moves_pixels() -> None:
    observation, secret = update(weights="random", image_size=8)
    small = Update(simulate(observation), observation, secret.labels, torch.float64)
    point = Point.of(small, secret.images.double())
    told: list[tuple[int, int]] = []
    sums = sketch(small, point.fed, point.residual, lambda *parts: told.append(parts))
    pixels = point.fed.numel()
    assert sums.shape == (2 * pixels, pixels)
    assert told[0] == (0, pixels)
    slope: Any = Slope(small, replace(point, left_out=point.left_out[:, :0]), Variables(torch.ones_like(point.fed)))
    moves = torch.randn(8, pixels, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    exact = [float(torch.from_numpy(slope.matvec(move.numpy())).norm()) for move in moves]
    assert (moves @ sums.T).norm(dim=1).tolist() == pytest.approx(exact, rel=0.2)


def test_the_rounding_of_the_softmax_is_no_error_of_the_images(sent: tuple[Observation, Secret]) -> None:
    observation, secret = sent
    whole = Update(simulate(observation), observation, secret.labels, torch.float64)
    truth = secret.images.double()
    residual, left_out, error = whole.fitted(truth)
    assert error.norm() < 1e-6 * whole.total
    logits = whole.simulation.logits(truth)
    expected = (logits.softmax(1) - torch.nn.functional.one_hot(secret.labels, 10)) / 2
    assert torch.allclose(residual.gather(1, secret.labels[:, None]), expected.gather(1, secret.labels[:, None]), rtol=1e-2)
    # Another rounding of the client's probabilities, a thousand times as large, is left out as well.
    moved = whole.linear(truth, expected.detach() + 1e-4 * torch.nn.functional.one_hot(secret.labels, 10))
    others = whole.joined(torch.autograd.grad(moved, list(whole.parameters.values())))
    assert (without(left_out, others)).norm() < 1e-5 * whole.total


def test_what_is_far_off_is_left_alone(sent: tuple[Observation, Secret]) -> None:
    observation, secret = sent
    noise = torch.rand(secret.images.shape, generator=torch.Generator().manual_seed(1))
    assert refined(simulate(observation), observation, noise, secret.labels, torch.full((2, 64), 0.02), Progress()) is noise


def test_the_rest_of_an_update_is_that_of_the_image_that_is_left(sent: tuple[Observation, Secret]) -> None:
    observation, secret = sent
    rest = rest_of(simulate(observation), observation, secret.images[:1], secret.labels[:1])
    assert rest is not None
    assert rest.batch_size == 1
    alone, _ = update(photo=1)
    for name, gradient in alone.gradients.items():
        assert (rest.gradients[name] - gradient).norm() <= 1e-4 * max(float(gradient.norm()), 1e-3), name


def test_true_images_leave_nothing_unexplained_and_each_other_s_labels_do(sent: tuple[Observation, Secret]) -> None:
    observation, secret = sent
    simulation = simulate(observation)
    assert unexplained(simulation, observation, secret.images, secret.labels) < 1e-5
    assert unexplained(simulation, observation, secret.images, secret.labels.flip(0)) > 0.1
