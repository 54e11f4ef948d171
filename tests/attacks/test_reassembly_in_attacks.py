"""An adversary that knows of the shuffle puts recovered patches in order; one that does not leaves them where they were fed."""

import pytest
import torch

from privbench.adversary import simulate
from privbench.attacks.closed_form import ClosedForm
from privbench.attacks.subspace import Subspace
from privbench.core import Attack
from tests.attacks.closed_forms import attacked, psnr, update


@pytest.mark.parametrize("attack", [ClosedForm(), Subspace()], ids=lambda attack: attack.name)
def test_aware_of_the_shuffle_the_photo_itself_comes_back(attack: Attack) -> None:
    unaware, secret = update("naive-shuffle", photo=1)
    left = attacked(attack, unaware)
    assert psnr(left.images, secret.images) < 20
    assert "order_cost" not in left.losses
    aware, secret = update("naive-shuffle", photo=1, adversary="aware")
    result = attacked(attack, aware)
    assert psnr(result.images, secret.images) > psnr(left.images, secret.images) + 10
    assert result.flags == ("order-inferred",)
    assert result.losses["order_cost"] < 0


def test_masked_patches_find_their_places_among_the_others() -> None:
    defense = "mjp:mask_ratio=0.1"
    scores = {}
    for adversary in ("unaware", "aware", "oracle"):
        observation, secret = update(defense, photo=1, adversary=adversary)
        result = attacked(Subspace(), observation)
        scores[adversary] = psnr(result.images, secret.images)
        assert ("order_cost" in result.losses) == (adversary != "unaware")
    assert result.flags == ("masked-order-inferred",)
    assert scores["aware"] > scores["unaware"] + 5
    assert scores["oracle"] == pytest.approx(scores["aware"], abs=3)


@pytest.mark.nightly
def test_one_patch_for_all_masked_ones_has_no_order() -> None:
    observation, _ = update("mjp:mask_ratio=0.1", photo=1, adversary="aware")
    for attack in (ClosedForm(), Subspace(position_gradients=False)):
        result = attacked(attack, observation)
        assert "order-not-inferred" in result.flags
        assert "order_cost" not in result.losses


@pytest.mark.parametrize(("defense", "moved"), [("none", None), ("naive-shuffle", 64), ("mjp:mask_ratio=0.27", "mjp.mask")])
def test_movable_is_what_an_aware_adversary_knows_to_be_moved(defense: str, moved: int | str | None) -> None:
    aware, secret = update(defense, adversary="aware")
    movable = simulate(aware).view.movable
    if moved is None:
        assert movable is None
    else:
        expected = secret.choices[moved] if isinstance(moved, str) else torch.ones(moved, dtype=torch.bool)
        assert torch.equal(movable, expected) if movable is not None else False
    for adversary in ("unaware", "oracle"):
        assert simulate(update(defense, adversary=adversary)[0]).view.movable is None
