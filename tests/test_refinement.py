"""All patches from the whole update: what is off comes back, what is far off is left alone."""

import pytest
import torch
from torch import Tensor

from privbench.adversary import simulate
from privbench.core import Observation, Secret
from privbench.core.patches import from_patches, to_patches
from privbench.refinement import refined, rest_of, unexplained
from tests.attacks.closed_forms import psnr, update

pytestmark = pytest.mark.integration

_LITTLE = 1e-6
"""About how far patches are off that are not disturbed: the rounding of images in float32."""


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privbench.refinement._ITERATIONS", (20, 30))


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
    found = refined(simulate(observation), observation, near, secret.labels, spread)
    assert psnr(found, secret.images) > psnr(near, secret.images) + 10


@pytest.mark.nightly
def test_all_patches_come_nearer_where_all_are_off(sent: tuple[Observation, Secret]) -> None:
    observation, secret = sent
    spread = torch.full((2, 64), 1e-4)
    spread[1] = 1e-3
    near = _disturbed(secret.images, spread)
    found = refined(simulate(observation), observation, near, secret.labels, spread)
    assert psnr(found, secret.images) > psnr(near, secret.images) + 1


def test_what_is_far_off_is_left_alone(sent: tuple[Observation, Secret]) -> None:
    observation, secret = sent
    noise = torch.rand(secret.images.shape, generator=torch.Generator().manual_seed(1))
    assert refined(simulate(observation), observation, noise, secret.labels, torch.full((2, 64), 0.02)) is noise


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
