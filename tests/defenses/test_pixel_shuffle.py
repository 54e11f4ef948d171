"""Pixel shuffle: what moves and what stays, who can undo it, alone and behind naive shuffle."""

import pytest
import torch

from privbench.attacks.closed_form import ClosedForm
from privbench.attacks.gradvit import GradViT
from privbench.attacks.subspace import Subspace
from privbench.core import Attack, ModelInput, Progress, UserError, build_defense, resolve_defense
from privbench.core.patches import to_patches
from privbench.defenses.pixel_shuffle import PixelShuffle
from privbench.models import build_model, default_spec
from tests.attacks.closed_forms import attacked, psnr, update
from tests.conformance import client_update, some_images


def _patches(images: torch.Tensor) -> torch.Tensor:
    return to_patches(images, 4).flatten(3)


@pytest.mark.parametrize(("per", "kinds"), [("batch", 1), ("patch", 64)])
def test_pixels_move_inside_their_patch_in_all_channels_and_images_alike(
    per: str, kinds: int, generator: torch.Generator
) -> None:
    defense = PixelShuffle.configured({"per": per})
    victim = build_model(default_spec("vit_mini_patch4_32"))
    images = some_images(2)
    protected = defense.prepare_batch(victim, ModelInput(images), generator)
    pixels = protected.choices["pixel-shuffle.pixels"]
    assert pixels.shape == (64, 16)
    assert len({tuple(row) for row in pixels.tolist()}) == kinds
    before, after = _patches(images), _patches(protected.model_input.images)
    for patch in range(64):
        assert sorted(pixels[patch].tolist()) == list(range(16))
        assert torch.equal(after[:, patch], before[:, patch][..., pixels[patch]])
    assert not torch.equal(after, before)


@pytest.mark.parametrize("spec", ["pixel-shuffle", "pixel-shuffle:per=patch", "naive-shuffle+pixel-shuffle:per=patch"])
def test_the_oracle_gets_the_picture_whatever_it_shows(spec: str, generator: torch.Generator) -> None:
    made = client_update(spec, adversary="oracle")
    found = ClosedForm().run(made.observation, generator=generator, progress=Progress())
    assert torch.allclose(found.images, made.secret.images, atol=1e-2)
    assert not {"pixels-not-inferred", "pixels-inferred"} & set(found.flags)


@pytest.mark.parametrize("attack", [ClosedForm(), Subspace()], ids=lambda attack: attack.name)
def test_aware_of_one_permutation_an_attack_finds_it_and_the_photo_is_back(attack: Attack) -> None:
    unaware, secret = update("pixel-shuffle", photo=1)
    left = attacked(attack, unaware)
    assert psnr(left.images, secret.fed) > 60
    assert psnr(left.images, secret.images) < 20
    assert (left.flags, left.inferred.roles) == ((), frozenset())
    found = attacked(attack, update("pixel-shuffle", photo=1, adversary="aware")[0])
    assert psnr(found.images, secret.images) > 60
    assert found.flags == ("pixels-inferred",)
    assert found.inferred.pixel_order is not None
    assert torch.equal(found.inferred.pixel_order, secret.choices["pixel-shuffle.pixels"])


def test_aware_of_a_permutation_for_each_patch_an_attack_gets_nearer_and_keeps_all_colours() -> None:
    observation, secret = update("pixel-shuffle:per=patch", photo=1, adversary="aware")
    found = attacked(ClosedForm(), observation)
    assert found.flags == ("pixels-inferred",)
    assert psnr(found.images, secret.images) > psnr(secret.fed, secret.images) + 2
    colours = [_patches(which).sort(dim=-1).values for which in (found.images, secret.images)]
    assert torch.allclose(colours[0], colours[1], atol=1e-2)


def test_gradient_matching_puts_the_pixels_of_a_batch_in_order_at_its_end() -> None:
    images = {}
    for adversary in ("unaware", "aware"):
        observation, _ = update("pixel-shuffle", batch=2, adversary=adversary)
        found = attacked(GradViT(steps=2, bn_prior=0), observation)
        images[adversary] = found.images
    undone = found.inferred.pixel_order
    assert undone is not None
    assert "pixels-inferred" in found.flags
    # The same optimisation, and then one order for all patches of both images.
    fed = _patches(images["aware"]).gather(3, undone[None, :, None].expand(2, -1, 3, -1))
    assert torch.equal(fed, _patches(images["unaware"]))
    assert len({tuple(row) for row in undone.tolist()}) == 1


@pytest.mark.parametrize(
    ("spec", "attack"),
    [
        ("naive-shuffle+pixel-shuffle", ClosedForm()),
        ("naive-shuffle+pixel-shuffle", Subspace()),
        pytest.param("mjp:mask_ratio=0.27+pixel-shuffle", ClosedForm(), marks=pytest.mark.nightly),
        ("mjp:mask_ratio=0.27+pixel-shuffle", Subspace(search=0)),
        ("mjp:mask_ratio=0.27+pixel-shuffle:per=patch", GradViT(steps=2, bn_prior=0)),
        ("no-pe+pixel-shuffle", Subspace(search=1)),
        ("no-pe+pixel-shuffle", GradViT(steps=2, bn_prior=0)),
    ],
)
def test_where_it_is_not_known_which_patches_are_neighbours_pixels_stay_where_the_client_put_them(
    spec: str, attack: Attack
) -> None:
    found = attacked(attack, update(spec, adversary="aware")[0])
    assert "pixels-not-inferred" in found.flags
    assert found.inferred.pixel_order is None


def test_a_jigsaw_that_masked_no_patch_keeps_nobody_from_finding_the_pixels() -> None:
    observation, secret = update("mjp:mask_ratio=0+pixel-shuffle", adversary="aware")
    found = attacked(ClosedForm(), observation)
    assert "pixels-inferred" in found.flags
    assert psnr(found.images, secret.images) > 60


def test_it_needs_patches_of_several_pixels() -> None:
    defense = build_defense(resolve_defense("pixel-shuffle"))
    with pytest.raises(UserError, match="defense pixel-shuffle needs a vision transformer"):
        defense.prepare_model(build_model(default_spec("cnn_mini_32")))
    single = build_model(default_spec("vit_mini_patch4_32"))
    network: torch.nn.Module = single.network
    network.patch_embed.proj = torch.nn.Conv2d(3, 192, 1, 1)  # type: ignore[union-attr]
    with pytest.raises(UserError, match="patches of several pixels, given 1x1"):
        defense.prepare_model(single)
    with pytest.raises(UserError, match="per: Input should be 'batch' or 'patch'"):
        resolve_defense("pixel-shuffle:per=image")
