"""The subspace attack: exact without position gradient, the mask read off the residual, masked patches told apart."""

import pytest
import torch

from privbench.adversary import simulate
from privbench.attacks.subspace import Subspace
from privbench.closed_form.embedding import PatchEmbedding
from privbench.closed_form.first_block import FirstBlock
from privbench.closed_form.tokens import Tokens
from privbench.core import Observation, UserError
from privbench.models import Victim
from privbench.scoring.patches import best_placement
from tests.attacks.closed_forms import attacked, patch_errors, psnr, update


def without(observation: Observation, *names: str) -> Observation:
    """The observation with some gradients replaced by noise."""
    noise = torch.Generator().manual_seed(1)
    gradients = {
        name: torch.randn(value.shape, generator=noise) if name.removeprefix("network.") in names else value
        for name, value in observation.gradients.items()
    }
    return observation.with_gradients(gradients)


def decibels(errors: torch.Tensor) -> float:
    return float(-10 * torch.log10(errors.mean()))


@pytest.mark.parametrize("photo", [0, 1])
def test_the_first_block_alone_gives_the_photo_away(photo: int) -> None:
    observation, secret = update(photo=photo)
    kept = "blocks.0.attn.qkv.weight"
    others = [name.removeprefix("network.") for name in observation.gradients if not name.endswith(kept)]
    for given in (observation, without(observation, *others)):
        result = attacked(Subspace(), given)
        assert psnr(result.images, secret.images) > 80
        assert result.losses["masked"] == 0
        assert result.losses["rank"] == 65
        assert result.flags == ()


def _with_a_weak_direction(victim: Victim) -> None:
    weight = victim.get_parameter("network.patch_embed.proj.weight")
    with torch.no_grad():
        left, sizes, right = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
        sizes[-1] = 3e-4 * sizes[0]
        weight.copy_((left * sizes @ right).view_as(weight))


def test_a_pixel_direction_that_the_embedding_hardly_shows_is_found_by_the_tokens_that_need_it() -> None:
    observation, secret = update(photo=1, changed=_with_a_weak_direction)
    found = attacked(Subspace.from_preset("row-space-only", {}), observation)
    assert found.losses["ambiguity"] == 0
    assert psnr(found.images, secret.images) > 60


def test_under_a_shuffle_the_content_is_exact_and_only_the_order_is_missing() -> None:
    observation, secret = update("naive-shuffle")
    images = attacked(Subspace(), observation).images
    assert psnr(images, secret.images) < 20
    assert psnr(best_placement(images, secret.images, 4), secret.images) > 80


@pytest.mark.parametrize(("mask_ratio", "photo"), [(0.1, 0), (0.27, 0), (0.5, 0), (0.5, 3)])
def test_the_mask_is_read_off_the_residual_without_the_position_gradient(mask_ratio: float, photo: int) -> None:
    observation, secret = update(f"mjp:mask_ratio={mask_ratio}", photo=photo)
    blind = without(observation, "pos_embed")
    model = simulate(blind).model
    block = FirstBlock.of(model)
    tolerance = Subspace().tolerance
    embedding = PatchEmbedding.of(model)
    tokens = Tokens(embedding, block, block.token_space(blind, embedding.token_count), tolerance)
    mask = secret.choices["mjp.mask"]
    assert mask.any()
    assert torch.equal(tokens.masked, mask)
    # The threshold lies far from both sides, and what is open is what the masked patches differ by.
    assert tokens.residuals[~mask].max() * 5 < tolerance < tokens.residuals[mask].min() / 5
    assert tokens.ambiguity.shape[1] == mask.sum() - 1


@pytest.mark.parametrize(("mask_ratio", "least"), [(0.1, 40), (0.27, 30), (0.5, 30)])
def test_patches_that_are_not_masked_come_back_under_mjp(mask_ratio: float, least: float) -> None:
    observation, secret = update(f"mjp:mask_ratio={mask_ratio}", photo=1)
    mask = secret.choices["mjp.mask"]
    by_row_space = attacked(Subspace(position_gradients=False), observation)
    assert by_row_space.flags == ("masked-patches-not-separated",)
    result = attacked(Subspace(search=0), observation)
    assert decibels(patch_errors(result.images, secret.images)[~mask]) > least
    gained = decibels(patch_errors(result.images, secret.images)[~mask])
    assert gained > decibels(patch_errors(by_row_space.images, secret.images)[~mask]) + 15
    assert result.losses["masked"] == mask.sum()


@pytest.mark.parametrize(("photo", "least"), [(0, 45), (1, 30)])
def test_masked_patches_are_told_apart_and_only_their_order_is_missing(photo: int, least: float) -> None:
    observation, secret = update("mjp:mask_ratio=0.1", photo=photo)
    result = attacked(Subspace(search=0), observation)
    assert result.flags == ("masked-order-not-inferred",)
    assert psnr(best_placement(result.images, secret.images, 4), secret.images) > least
    common = attacked(Subspace(position_gradients=False), observation)
    assert psnr(best_placement(common.images, secret.images, 4), secret.images) < 31


def test_the_activations_bring_every_patch_back_where_the_moments_leave_rounding() -> None:
    observation, secret = update("mjp:mask_ratio=0.1", photo=1)
    by_moments, result = (attacked(Subspace(search=rounds), observation) for rounds in (0, 1))
    assert (by_moments.losses["found"], result.losses["found"]) == (0, result.losses["masked"])
    assert result.flags == ("masked-order-not-inferred",)
    reached, before = (psnr(best_placement(given.images, secret.images, 4), secret.images) for given in (result, by_moments))
    assert reached > max(60, before + 20)


def test_the_later_moments_lead_to_every_masked_patch_where_most_are_masked() -> None:
    observation, secret = update("mjp:mask_ratio=0.7", photo=1)
    result = attacked(Subspace(), observation)
    assert result.losses["found"] == result.losses["masked"] == secret.choices["mjp.mask"].sum()
    assert psnr(best_placement(result.images, secret.images, 4), secret.images) > 60


def test_the_search_needs_the_gradients_of_the_mlp() -> None:
    observation, _ = update("mjp:mask_ratio=0.1", photo=1)
    blind = without(observation, "blocks.0.mlp.fc2.weight")
    by_moments, result = (attacked(Subspace(search=rounds), blind) for rounds in (0, 1))
    assert result.losses["found"] == 0
    assert torch.equal(result.images, by_moments.images)


def test_a_single_masked_patch_hides_nothing() -> None:
    observation, secret = update("mjp:mask_ratio=0.02,smallest_block=1")
    assert secret.choices["mjp.mask"].sum() == 1
    assert psnr(attacked(Subspace(), observation).images, secret.images) > 80


def test_noise_that_hides_the_row_space_is_flagged() -> None:
    observation, secret = update()
    result = attacked(Subspace(), without(observation, "blocks.0.attn.qkv.weight"))
    assert result.flags == ("row-space-does-not-fit",)
    assert psnr(result.images, secret.images) < 20


@pytest.mark.parametrize(
    ("defense", "batch", "model", "words"),
    [
        ("none", 2, "vit_mini_patch4_32", "one image"),
        ("none", 1, "vit_small_patch16_224", "as many equations"),
    ],
)
def test_what_it_does_not_apply_to_is_refused_in_a_line(defense: str, batch: int, model: str, words: str) -> None:
    weights = "embedded" if model == "vit_mini_patch4_32" else "random"
    observation, _ = update(defense, batch=batch, model=model, weights=weights)
    with pytest.raises(UserError, match=words) as caught:
        attacked(Subspace(), observation)
    assert "\n" not in str(caught.value)
