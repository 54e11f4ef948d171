"""The naive shuffle: which patches move, in what order, and what is refused."""

import pytest
import torch
from torch import Tensor

from privbench.core import ModelInput, UserError, build_defense, resolve_defense
from privbench.core.patches import rearrange, to_patches
from privbench.models import Victim, build_model, default_spec
from tests.conformance import some_images


@pytest.fixture(scope="module")
def victim() -> Victim:
    return build_model(default_spec("vit_mini_patch4_32"))


def order_of(text: str, victim: Victim, seed: int, images: Tensor | None = None) -> Tensor:
    images = some_images(1, seed=3) if images is None else images
    protected = build_defense(resolve_defense(text)).prepare_batch(
        victim, ModelInput(images), torch.Generator().manual_seed(seed)
    )
    order = protected.choices["naive-shuffle.order"]
    assert torch.equal(protected.model_input.images, rearrange(images, order, 4))
    return order


def test_without_a_ratio_all_patches_are_permuted_as_one_draw(victim: Victim) -> None:
    expected = torch.randperm(64, generator=torch.Generator().manual_seed(5))
    assert torch.equal(order_of("naive-shuffle", victim, 5), expected)
    assert torch.equal(order_of("naive-shuffle:ratio=1", victim, 5), expected)
    # What has no value is no part of the case, whose records stay what they are.
    assert resolve_defense("naive-shuffle")[0].parameters == {}
    assert resolve_defense("naive-shuffle:ratio=1")[0].parameters == {"ratio": 1.0}


@pytest.mark.parametrize(("ratio", "count"), [("0.25", 16), ("0.29", 18), ("0.04", 2)])
def test_a_share_of_the_patches_is_permuted_among_themselves(ratio: str, count: int, victim: Victim) -> None:
    images = some_images(2, seed=7)
    moved = torch.zeros(64)
    for seed in range(400):
        order = order_of(f"naive-shuffle:ratio={ratio}", victim, seed, images)
        assert sorted(order.tolist()) == list(range(64))
        places = order != torch.arange(64)
        assert places.sum() <= count
        moved += places
    # Every patch is chosen alike; of k chosen ones each stays where it was once in k draws.
    expected = 400 * (count / 64) * (1 - 1 / count)
    assert abs(float(moved.mean()) - expected) < 0.1 * expected + 1
    assert float((moved - expected).abs().max()) < 5 * expected**0.5
    shuffled = rearrange(images, order_of(f"naive-shuffle:ratio={ratio}", victim, 0, images), 4)
    kept = (to_patches(shuffled, 4) == to_patches(images, 4)).flatten(2).all(dim=2).sum(dim=1)
    assert (kept >= 64 - count).all()


@pytest.mark.parametrize("ratio", ["0", "1.1", "nan"])
def test_ratios_out_of_range_are_refused_in_one_line(ratio: str) -> None:
    with pytest.raises(UserError, match="defense naive-shuffle: ratio"):
        resolve_defense(f"naive-shuffle:ratio={ratio}")


def test_a_ratio_that_moves_nothing_is_refused_in_one_line(victim: Victim) -> None:
    with pytest.raises(UserError, match=r"moves fewer than two of 64 patches at ratio=0.02; accepted: 0.0313 to 1"):
        build_defense(resolve_defense("naive-shuffle:ratio=0.02")).prepare_model(victim)
    assert build_defense(resolve_defense("naive-shuffle:ratio=0.0313")).prepare_model(victim) is victim


def test_a_block_wise_choice_moves_a_block_and_half_of_the_training_batches(victim: Victim) -> None:
    defense = build_defense(resolve_defense("naive-shuffle:ratio=0.25,selection=blocks"))
    batch, generator = ModelInput(some_images(1, seed=3)), torch.Generator().manual_seed(1)
    counts, neighbours = [], []
    for _ in range(100):
        order = defense.prepare_batch(victim, batch, generator).choices["naive-shuffle.order"]
        moved = (order != torch.arange(64)).reshape(8, 8)
        counts.append(int(moved.sum()))
        neighbours.append(float((moved[:, 1:] & moved[:, :-1]).sum() / moved.sum().clamp(min=1)))
    assert max(counts) <= 16
    # Single patches of this share lie side by side in about 0.22 of the cases.
    assert sum(neighbours) / 100 > 0.45

    def share(progress: float) -> float:
        drawn = [defense.training_batch(victim, batch, generator, progress) for _ in range(200)]
        return sum("naive-shuffle.order" in one.choices for one in drawn) / 200

    assert share(0.05) == 0.0
    assert share(0.5) == pytest.approx(0.5, abs=0.12)
    with pytest.raises(UserError, match="selection=blocks needs a ratio"):
        resolve_defense("naive-shuffle:selection=blocks")
