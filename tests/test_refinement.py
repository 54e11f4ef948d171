"""A few patches from the whole update: what is off comes back, what is far off or too much is left alone."""

import pytest
import torch
from torch import Tensor

from privbench.adversary import simulate
from privbench.core import Observation, Secret
from privbench.core.patches import from_patches, to_patches
from privbench.refinement import MOST_PATCHES, refined
from tests.attacks.closed_forms import psnr, update

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def sent() -> tuple[Observation, Secret]:
    return update(batch=2)


def _disturbed(images: Tensor, chosen: Tensor, size: float) -> Tensor:
    patches = to_patches(images, 4).clone()
    noise = size * torch.randn(patches[chosen].shape, generator=torch.Generator().manual_seed(0))
    patches[chosen] = (patches[chosen] + noise).clamp(0, 1)
    return from_patches(patches, 32, 32)


def test_a_patch_comes_back(sent: tuple[Observation, Secret]) -> None:
    observation, secret = sent
    chosen = torch.zeros(2, 64, dtype=torch.bool)
    chosen[1, 27] = True
    near = _disturbed(secret.images, chosen, 0.02)
    found = refined(simulate(observation), observation, near, secret.labels, chosen)
    assert psnr(found, secret.images) > psnr(near, secret.images) + 20
    assert torch.equal(to_patches(found, 4)[~chosen], to_patches(near, 4)[~chosen])


def test_what_is_far_off_or_too_much_is_left_alone(sent: tuple[Observation, Secret]) -> None:
    observation, secret = sent
    chosen = torch.zeros(2, 64, dtype=torch.bool)
    chosen[0, : MOST_PATCHES + 1] = True
    near = _disturbed(secret.images, chosen, 0.02)
    assert refined(simulate(observation), observation, near, secret.labels, chosen) is near
    chosen[0, 1:] = False
    noise = torch.rand(near.shape, generator=torch.Generator().manual_seed(1))
    assert refined(simulate(observation), observation, noise, secret.labels, chosen) is noise
