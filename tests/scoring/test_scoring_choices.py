"""What an attack inferred of the client's choices: exact answers score 1, guesses chance, what cannot be known is not asked."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from privbench.core import ChoiceRole, InferredChoices
from privbench.core.choices import choices_by_role
from privbench.core.patches import rearrange
from privbench.scoring import ChoiceScores, mask_accuracy, order_accuracy, score_choices

PATCHES, SIZE = 64, 4
Photos = Callable[[int], Tensor]


def permuted(mask: Tensor, generator: torch.Generator) -> Tensor:
    chosen, order = mask.nonzero().flatten(), torch.arange(len(mask))
    order[chosen] = chosen[torch.randperm(len(chosen), generator=generator)]
    return order


def masked(count: int, generator: torch.Generator) -> Tensor:
    mask = torch.zeros(PATCHES, dtype=torch.bool)
    mask[torch.randperm(PATCHES, generator=generator)[:count]] = True
    return mask


# Masks


def test_a_mask_is_judged_by_both_kinds_of_patches_alike() -> None:
    truth = torch.arange(10) < 2
    assert mask_accuracy(truth, truth) == 1
    assert mask_accuracy(~truth, truth) == 0
    nothing = torch.zeros(10, dtype=torch.bool)
    assert mask_accuracy(nothing, truth) == mask_accuracy(~nothing, truth) == 0.5
    assert mask_accuracy(torch.arange(10) < 1, truth) == pytest.approx((1 / 2 + 1) / 2)
    assert mask_accuracy(nothing, nothing) == 1
    assert mask_accuracy(truth, nothing) == pytest.approx(0.8)


@pytest.mark.parametrize("count", [6, 32, 58])
def test_a_blind_mask_has_one_half_in_expectation(count: int, generator: torch.Generator) -> None:
    truth = masked(count, generator)
    scores = [mask_accuracy(masked(17, generator), truth) for _ in range(2000)]
    assert sum(scores) / 2000 == pytest.approx(0.5, abs=0.01)


# Orders


def test_the_clients_own_order_is_right_and_its_inverse_is_not(photos: Photos, generator: torch.Generator) -> None:
    image = photos(32)[1]
    truth = torch.randperm(PATCHES, generator=generator)
    assert order_accuracy(truth, truth, image, image, SIZE) == 1
    assert order_accuracy(truth.argsort(), truth, image, image, SIZE) == pytest.approx(0, abs=0.1)
    half = truth.clone()
    half[:32] = truth[:32].roll(1)
    assert order_accuracy(half, truth, image, image, SIZE) == 0.5


def test_an_order_is_judged_apart_from_the_content_of_the_patches(photos: Photos, generator: torch.Generator) -> None:
    truth = torch.randperm(PATCHES, generator=generator)
    noise = torch.rand(3, 32, 32, generator=generator)
    assert order_accuracy(truth, truth, noise, photos(32)[1], SIZE) == 1


@pytest.mark.parametrize("count", [None, 10])
def test_a_random_order_has_one_over_the_number_of_moved_patches(
    count: int | None, photos: Photos, generator: torch.Generator
) -> None:
    image = photos(32)[1]
    shared = None if count is None else masked(count, generator)
    moved = torch.ones(PATCHES, dtype=torch.bool) if shared is None else shared
    truth = permuted(moved, generator)
    scores = []
    for _ in range(400):
        guess = permuted(moved, generator)
        fed = rearrange(image[None], truth, SIZE)
        scores.append(order_accuracy(guess, truth, rearrange(fed, guess.argsort(), SIZE)[0], image, SIZE, shared=shared))
    mean = sum(score for score in scores if score is not None) / 400
    assert mean == pytest.approx(1 / int(moved.sum()), rel=0.25)


def test_identical_patches_may_change_places(generator: torch.Generator) -> None:
    image = torch.rand(3, 32, 32, generator=generator)
    image[:, :8] = 0.3
    truth = torch.arange(PATCHES)
    guess = torch.cat([torch.arange(16).flip(0), torch.arange(16, 64)])
    assert order_accuracy(guess, truth, image, image, SIZE) == 1
    image[:, 0, 0] = 0.31
    assert order_accuracy(guess, truth, image, image, SIZE) == (64 - 2) / 64


def test_patches_that_share_a_row_have_no_numbers_but_a_place_in_the_image(photos: Photos, generator: torch.Generator) -> None:
    image = photos(32)[1]
    shared = masked(12, generator)
    truth = permuted(shared, generator)
    # The attacker numbers them otherwise than the client did; its picture is the image itself.
    numbers = permuted(shared, generator)
    assert order_accuracy(numbers, truth, image, image, SIZE, shared=shared) == 1
    # Noise on the picture does not change which patch is which.
    noisy = (image + 0.02 * torch.randn(3, 32, 32, generator=generator)).clamp(0, 1)
    assert order_accuracy(numbers, truth, noisy, image, SIZE, shared=shared) == 1
    # Two masked patches of the picture in each other's place are two wrong ones of twelve.
    swap, (first, second) = torch.arange(PATCHES), shared.nonzero().flatten()[:2].tolist()
    swap[[first, second]] = torch.tensor([second, first])
    wrong = rearrange(image[None], swap, SIZE)[0]
    assert order_accuracy(numbers, truth, wrong, image, SIZE, shared=shared) == pytest.approx(10 / 12)
    assert order_accuracy(numbers, truth, image, image, SIZE, shared=torch.zeros_like(shared)) is None


# A batch


def test_a_batch_is_scored_as_it_is_paired(photos: Photos, generator: torch.Generator) -> None:
    images = photos(32)[1:3]
    order = torch.randperm(PATCHES, generator=generator)
    truth = InferredChoices(order=order)
    inferred = InferredChoices(order=torch.stack([order, order.roll(1)]))
    right = ChoiceScores(order_accuracy=1)
    for source in ([0, 1], [1, 0]):
        found = score_choices(inferred, truth, images[source], images, SIZE, source=source)
        assert found[source.index(0)] == right
        assert found[source.index(1)].order_accuracy == pytest.approx(0, abs=0.05)
    assert score_choices(truth, truth, images, images, SIZE, source=[0, 1]) == [right, right]


def test_what_nobody_inferred_or_chose_has_no_score(photos: Photos) -> None:
    images, order = photos(32)[:1], InferredChoices(order=torch.arange(PATCHES))
    empty, mask = InferredChoices(), InferredChoices(mask=torch.ones(PATCHES, dtype=torch.bool))
    for inferred, truth, size in ((empty, order, SIZE), (order, empty, SIZE), (order, mask, SIZE), (order, order, None)):
        assert score_choices(inferred, truth, images, images, size, source=[0]) == [ChoiceScores()]


@pytest.mark.parametrize("guess", [torch.zeros(PATCHES, dtype=torch.int64), torch.arange(9), torch.rand(PATCHES)])
def test_an_order_that_is_none_breaks_the_contract(guess: Tensor, photos: Photos) -> None:
    images, truth = photos(32)[:1], InferredChoices(order=torch.arange(PATCHES))
    with pytest.raises(RuntimeError, match="inferred order"):
        score_choices(InferredChoices(order=guess), truth, images, images, SIZE, source=[0])


def test_a_shuffle_before_a_jigsaw_is_one_order_of_all_patches(photos: Photos, generator: torch.Generator) -> None:
    image, shared = photos(32)[1], masked(12, generator)
    shuffle, jigsaw = torch.randperm(PATCHES, generator=generator), permuted(shared, generator)
    roles: tuple[tuple[str, ChoiceRole], ...] = (("a.order", "order"), ("b.mask", "mask"), ("b.order", "order"))
    truth = choices_by_role({"a.order": shuffle, "b.mask": shared, "b.order": jigsaw}, roles)
    fed = rearrange(rearrange(image[None], shuffle, SIZE), jigsaw, SIZE)
    assert truth.order is not None
    assert torch.equal(rearrange(image[None], truth.order, SIZE), fed)
    assert score_choices(truth, truth, image[None], image[None], SIZE, source=[0]) == [ChoiceScores(1, 1)]
    # The shuffle left as it was: next to no patch stands where it belongs.
    wrong = replace(truth, order=jigsaw)
    (found,) = score_choices(wrong, truth, image[None], image[None], SIZE, source=[0])
    assert found.order_accuracy is not None
    assert found.order_accuracy < 0.3
