"""Pixel shuffle: what moves and what stays, who can undo it, alone and behind naive shuffle."""

import pytest
import torch

from privbench.attacks.closed_form import ClosedForm
from privbench.core import ModelInput, Progress, UserError, build_defense, resolve_defense
from privbench.core.patches import to_patches
from privbench.defenses.pixel_shuffle import PixelShuffle
from privbench.models import build_model, default_spec
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


@pytest.mark.parametrize("spec", ["pixel-shuffle", "naive-shuffle+pixel-shuffle:per=patch"])
def test_the_oracle_gets_the_picture_and_the_aware_attacker_the_shuffled_one_with_a_flag(
    spec: str, generator: torch.Generator
) -> None:
    def recovered(adversary: str) -> tuple[torch.Tensor, tuple[str, ...]]:
        observation = client_update(spec, adversary=adversary).observation
        found = ClosedForm().run(observation, generator=generator, progress=Progress())
        return found.images, found.flags

    secret = client_update(spec).secret
    images, flags = recovered("oracle")
    assert torch.allclose(images, secret.images, atol=1e-2)
    assert "pixels-not-inferred" not in flags
    images, flags = recovered("aware")
    assert "pixels-not-inferred" in flags
    # Whatever is done about the order of patches, the places of the pixels in them stay the client's.
    sums = [_patches(which).sum((0, 2, 3)).sort().values for which in (images, secret.fed)]
    assert torch.allclose(sums[0], sums[1], atol=0.05)
    assert not torch.allclose(images, secret.images, atol=0.1)


def test_it_needs_patches_of_several_pixels() -> None:
    defense = build_defense(resolve_defense("pixel-shuffle"))
    with pytest.raises(UserError, match="defense pixel-shuffle needs a vision transformer"):
        defense.prepare_model(build_model(default_spec("cnn_mini_32")))
    single = build_model(default_spec("vit_mini_patch4_32"))
    network: torch.nn.Module = single.network
    network.patch_embed.patch_size = (1, 1)  # type: ignore[union-attr]
    with pytest.raises(UserError, match="patches of several pixels, given 1x1"):
        defense.prepare_model(single)
    with pytest.raises(UserError, match="per: Input should be 'batch' or 'patch'"):
        resolve_defense("pixel-shuffle:per=image")
