"""Token search: two photos from one update, and one line where it does not apply."""

from itertools import permutations
from typing import Any

import pytest
import torch

from privbench.attacks.token_search import TokenSearch
from privbench.core import UserError
from tests.attacks.closed_forms import attacked, psnr, update


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({}, "takes batches of 2 images and more, given 1; choose --attack subspace"),
        (
            {"batch": 3},
            r"needs a width of 248 for 195 tokens of 3 images and 48 pixels of a patch \(or of 390 for any patch\), given 192",
        ),
        ({"batch": 2, "defense": "no-pe"}, "a learned position row for each patch"),
        ({"batch": 2, "model": "cnn_mini_32", "weights": "random"}, "transformer"),
    ],
)
def test_what_does_not_apply_is_refused_in_one_line(given: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as refused:
        attacked(TokenSearch(), update(**given)[0])
    assert "\n" not in str(refused.value)


def test_an_update_without_the_first_mlp_is_refused() -> None:
    observation, _ = update(batch=2)
    kept = {name: value for name, value in observation.update.items() if "blocks.0.mlp" not in name}
    with pytest.raises(UserError, match=r"needs the update of .*mlp"):
        attacked(TokenSearch(), observation.with_gradients(kept))


@pytest.mark.parametrize("std", ["0.1", pytest.param("1e-6", marks=pytest.mark.nightly)])
def test_noise_ends_the_search_after_a_round_and_leaves_grey(std: str) -> None:
    observation, _ = update(f"gradient-noise:std={std}", batch=2)
    result = attacked(TokenSearch(rounds=1, starts=1), observation)
    again = attacked(TokenSearch(rounds=3, starts=1), observation)
    assert result.losses["found"] < 13
    assert again.losses == result.losses
    assert "row-space-does-not-fit" in again.flags
    assert torch.equal(again.images, torch.full_like(again.images, 0.5))


LARGE_PATCHES: dict[str, Any] = {"model": "vit_tiny_patch16_224", "weights": "random", "image_size": 64, "batch": 3}
"""51 tokens of width 192; a patch of 768 pixels is more than its token."""


def _each(images: torch.Tensor, truth: torch.Tensor) -> float:
    """The least PSNR of an image of a batch, after the best assignment."""
    scores = [[psnr(one, other) for other in truth] for one in images]
    return max(min(scores[i][j] for i, j in enumerate(order)) for order in permutations(range(len(images))))


def test_patches_larger_than_their_tokens_come_back_from_a_wide_model() -> None:
    observation, secret = update(**LARGE_PATCHES)
    result = attacked(TokenSearch(), observation)
    assert _each(result.images, secret.images) > 60
    assert (result.losses["missing"], result.flags) == (0, ())


def test_images_of_four_patches_are_told_apart_though_one_deal_alone_ends_wrong() -> None:
    observation, secret = update(**LARGE_PATCHES | {"image_size": 32, "batch": 5})
    assert _each(attacked(TokenSearch(), observation).images, secret.images) > 60


def test_shuffled_large_patches_come_back_in_the_order_in_which_they_were_fed() -> None:
    observation, secret = update("naive-shuffle", **LARGE_PATCHES)
    assert _each(attacked(TokenSearch(), observation).images, secret.fed) > 60


def test_a_wide_model_with_more_tokens_than_half_its_width_is_refused() -> None:
    with pytest.raises(UserError, match=r"needs a width of 875 for 102 tokens .* \(or of 204 for any patch\), given 192"):
        attacked(TokenSearch(), update(**LARGE_PATCHES | {"batch": 6})[0])


def test_a_wide_models_update_without_the_embedding_is_refused() -> None:
    observation, _ = update(**LARGE_PATCHES)
    kept = {name: value for name, value in observation.update.items() if "patch_embed" not in name}
    with pytest.raises(UserError, match=r"needs the update of .*patch_embed"):
        attacked(TokenSearch(), observation.with_gradients(kept))


def test_noise_hides_large_patches_and_they_are_grey() -> None:
    observation, _ = update("gradient-noise:std=0.01", **LARGE_PATCHES)
    result = attacked(TokenSearch(), observation)
    assert "row-space-does-not-fit" in result.flags
    assert torch.equal(result.images, torch.full_like(result.images, 0.5))


@pytest.mark.nightly
def test_two_photos_come_back_from_one_update() -> None:
    observation, secret = update(batch=2)
    result = attacked(TokenSearch(), observation)
    assert _each(result.images, secret.images) > 60
    assert result.losses["missing"] == 0
    assert result.flags == ()
    again = attacked(TokenSearch(), observation)
    assert torch.equal(again.images, result.images)
