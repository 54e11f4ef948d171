"""What an aware adversary infers: the mask exactly, the order stated as the client would, and nothing that it was told."""

import math

import pytest
import torch
from torch import Tensor

from privbench.attacks.dlg import DeepLeakage
from privbench.attacks.gradvit import GradViT
from privbench.attacks.subspace import Subspace
from privbench.core import Observation
from privbench.core.patches import rearrange
from privbench.scoring import mask_accuracy, order_accuracy
from tests.attacks.closed_forms import attacked, update

FEW = GradViT(steps=2, bn_prior=0)


def stated(choice: Tensor | None) -> Tensor:
    """What an attack must have stated."""
    assert choice is not None
    return choice


def with_noise(observation: Observation, relative: float) -> Observation:
    """White noise on the whole update, relative to its root mean square."""
    noise = torch.Generator().manual_seed(3)
    total = sum(float(gradient.double().square().sum()) for gradient in observation.gradients.values())
    size = relative * math.sqrt(total / sum(gradient.numel() for gradient in observation.gradients.values()))
    gradients = {
        name: gradient + size * torch.randn(gradient.shape, generator=noise) for name, gradient in observation.gradients.items()
    }
    return observation.with_gradients(gradients)


@pytest.mark.parametrize("noise", [0.0, 1e-2])
@pytest.mark.parametrize("mask_ratio", [0.1, 0.27, 0.5])
@pytest.mark.parametrize("photo", [0, 1])
def test_the_mask_is_inferred_exactly_with_and_without_noise(mask_ratio: float, photo: int, noise: float) -> None:
    observation, secret = update(f"mjp:mask_ratio={mask_ratio}", photo=photo, adversary="aware")
    result = attacked(FEW, with_noise(observation, noise))
    truth = secret.choices["mjp.mask"]
    assert truth.any()
    assert torch.equal(stated(result.inferred.mask), truth)
    assert "mask-inferred" in result.flags


def test_noise_larger_than_the_gradient_hides_the_mask_in_part() -> None:
    observation, secret = update("mjp:mask_ratio=0.5", adversary="aware")
    found = stated(attacked(FEW, with_noise(observation, 1.0)).inferred.mask)
    assert 0.4 < mask_accuracy(found, secret.choices["mjp.mask"]) < 1


def test_no_mask_is_inferred_where_the_client_drew_none() -> None:
    observation, secret = update("mjp:mask_ratio=0", adversary="aware")
    for given in (observation, with_noise(observation, 1e-2)):
        result = attacked(FEW, given)
        assert torch.equal(stated(result.inferred.mask), secret.choices["mjp.mask"])
        assert result.inferred.order is None
        assert not {"order-inferred", "order-not-inferred"} & set(result.flags)


def test_under_a_shuffle_the_order_stated_is_the_one_that_was_undone() -> None:
    aware, unaware = (attacked(FEW, update("naive-shuffle", adversary=adversary)[0]) for adversary in ("aware", "unaware"))
    # The same optimisation: the forward pass of the shuffled image is all that both of them simulate.
    assert torch.equal(rearrange(aware.images, stated(aware.inferred.order), 4), unaware.images)
    assert "order-inferred" in aware.flags
    assert aware.losses["order_cost"] < 0
    assert unaware.inferred.roles == frozenset()


def test_the_engine_orders_masked_patches_alone() -> None:
    observation, secret = update("mjp:mask_ratio=0.27", photo=1, adversary="aware")
    order = stated(attacked(GradViT(steps=30, bn_prior=0), observation).inferred.order)[0]
    kept = ~secret.choices["mjp.mask"]
    assert torch.equal(order[kept], torch.arange(64)[kept])


def test_a_perfect_recovery_of_a_shuffled_photo_is_put_in_order() -> None:
    observation, secret = update("naive-shuffle", photo=1, adversary="aware")
    result = attacked(Subspace(), observation)
    truth = secret.choices["naive-shuffle.order"]
    accuracy = order_accuracy(stated(result.inferred.order), truth, result.images[0], secret.images[0], 4)
    assert accuracy is not None
    assert accuracy > 0.7


def test_subspace_states_its_own_mask_and_where_the_masked_patches_belong() -> None:
    observation, secret = update("mjp:mask_ratio=0.1", photo=1, adversary="aware")
    result = attacked(Subspace(), observation)
    mask = secret.choices["mjp.mask"]
    assert torch.equal(stated(result.inferred.mask), mask)
    pictures = result.images[0], secret.images[0]
    assert order_accuracy(stated(result.inferred.order), secret.choices["mjp.order"], *pictures, 4, shared=mask) == 1


def test_the_images_of_a_shuffled_batch_stand_in_one_order_and_masked_patches_in_one_for_each() -> None:
    shuffled = attacked(FEW, update("naive-shuffle", batch=2, adversary="aware")[0])
    assert stated(shuffled.inferred.order).shape == (64,)
    masked = attacked(FEW, update("mjp:mask_ratio=0.27", batch=2, adversary="aware")[0])
    assert stated(masked.inferred.order).shape == (2, 64)


@pytest.mark.parametrize("defense", ["naive-shuffle", "mjp:mask_ratio=0.27"])
@pytest.mark.parametrize(
    "attack",
    [FEW, *(pytest.param(one, marks=pytest.mark.nightly) for one in (DeepLeakage(steps=1), Subspace()))],
    ids=lambda attack: attack.name,
)
def test_who_is_told_or_does_not_know_of_a_choice_infers_none(attack: GradViT, defense: str) -> None:
    for adversary in ("unaware", "oracle"):
        assert attacked(attack, update(defense, adversary=adversary)[0]).inferred.roles == frozenset()
    chosen = {"naive-shuffle": {"order"}, "mjp:mask_ratio=0.27": {"mask", "order"}}
    assert attacked(attack, update(defense, adversary="aware")[0]).inferred.roles == chosen[defense]
