"""Pixel order: pixels that were permuted inside patches are put back by how alike neighbours are, and by nothing else."""

import pytest
import torch
from torch import Tensor

from privbench.core import ScrambledPixels
from privbench.core.patches import from_patches, to_patches
from privbench.data import open_images
from privbench.jigsaw import unscrambled

ONE, EACH = ScrambledPixels("batch"), ScrambledPixels("patch")


def smooth(height: int, width: int) -> Tensor:
    """`[1, 3, height, width]`, colours that change steadily and differently in both directions."""
    down = torch.linspace(0, 1, height)[:, None].expand(-1, width)
    right = torch.linspace(0, 1, width).expand(height, -1)
    return torch.stack([down, right, (1 - down + right**2) / 2])[None]


def photos(*indices: int, side: int = 32) -> Tensor:
    return open_images("photos").load(list(indices), side)[0]


def scrambled(images: Tensor, size: int, how: ScrambledPixels, seed: int = 3) -> tuple[Tensor, Tensor]:
    """Images as a client would feed them, and its choice `[patches, pixels]`."""
    cut = to_patches(images, size)
    number = cut.shape[1]
    drawn = torch.rand(number if how.per == "patch" else 1, size**2, generator=torch.Generator().manual_seed(seed)).argsort(
        dim=1
    )
    pixels = drawn.expand(number, -1)
    moved = cut.flatten(3).gather(3, pixels[None, :, None].expand_as(cut.flatten(3))).view_as(cut)
    return from_patches(moved, *images.shape[-2:]), pixels


def put_back(images: Tensor, size: int, how: ScrambledPixels, seed: int = 0) -> tuple[Tensor, Tensor]:
    return unscrambled(images, size, how, generator=torch.Generator().manual_seed(seed))


def error(guess: Tensor, truth: Tensor) -> float:
    return float((guess - truth).square().mean())


@pytest.mark.parametrize(("rows", "columns", "size"), [(8, 8, 4), (5, 7, 3), (4, 6, 2), (3, 3, 6)])
def test_one_order_for_all_patches_of_a_smooth_image_is_found_exactly(rows: int, columns: int, size: int) -> None:
    image = smooth(rows * size, columns * size)
    fed, choice = scrambled(image, size, ONE)
    assert not torch.equal(fed, image)
    found, undone = put_back(fed, size, ONE)
    assert torch.equal(found, image)
    # In the client's form: it says of each place of the fed patch which pixel of the image it holds.
    assert torch.equal(undone, choice)


@pytest.mark.parametrize("photo", range(8))
def test_one_order_for_all_patches_of_a_photo_is_found_exactly(photo: int) -> None:
    image = photos(photo)
    assert torch.equal(put_back(scrambled(image, 4, ONE, seed=photo)[0], 4, ONE)[0], image)


def test_patches_of_many_pixels_come_back_as_well() -> None:
    image = photos(1, side=128)
    assert torch.equal(put_back(scrambled(image, 8, ONE)[0], 8, ONE)[0], image)


def test_the_images_of_a_batch_tell_together_what_none_tells_alone() -> None:
    generator = torch.Generator().manual_seed(2)
    steps = torch.rand(2, 3, 32, generator=generator).sub(0.5).cumsum(dim=-1) / 8 + 0.5
    # Where colours change in one direction only, rows or columns of a patch may change places unseen.
    stripes = torch.stack([steps[0][:, None].expand(-1, 32, -1), steps[1][:, :, None].expand(-1, -1, 32)])
    fed, choice = scrambled(stripes, 4, ONE)
    assert torch.equal(put_back(fed, 4, ONE)[1], choice)
    assert not torch.equal(put_back(fed[:1], 4, ONE)[1], choice)
    assert not torch.equal(put_back(fed[1:], 4, ONE)[1], choice)


def test_an_order_for_each_patch_is_found_in_part() -> None:
    images = photos(*range(8))
    before, after = [], []
    for number, image in enumerate(images[:, None]):
        fed, _ = scrambled(image, 4, EACH, seed=number)
        found, undone = put_back(fed, 4, EACH)
        again = to_patches(found, 4).flatten(3).gather(3, undone[None, :, None].expand(1, -1, 3, -1))
        assert torch.equal(again, to_patches(fed, 4).flatten(3))
        before.append(error(fed, image))
        after.append(error(found, image))
    assert sum(after) < 0.6 * sum(before)


def test_patches_of_a_batch_share_their_orders() -> None:
    images = photos(0, 1, 2, 3)
    fed, choice = scrambled(images, 4, EACH)
    together = put_back(fed, 4, EACH)[1]
    alone = put_back(fed[:1], 4, EACH)[1]
    assert together.shape == choice.shape == (64, 16)
    assert (together == choice).double().mean() > (alone == choice).double().mean() + 0.05


@pytest.mark.parametrize("how", [ONE, EACH], ids=lambda how: how.per)
def test_the_same_seed_gives_the_same_order(how: ScrambledPixels) -> None:
    fed, _ = scrambled(photos(3), 4, how)
    assert torch.equal(put_back(fed, 4, how, seed=7)[0], put_back(fed, 4, how, seed=7)[0])


def test_an_image_without_any_contrast_stays_as_it_is() -> None:
    flat = torch.full((1, 3, 12, 12), 0.5)
    found, undone = put_back(flat, 4, ONE)
    assert torch.equal(found, flat)
    assert torch.equal(undone, torch.arange(16).expand(9, -1))
    found, undone = put_back(flat, 4, EACH)
    assert torch.equal(found, flat)
    assert torch.equal(undone.sort(dim=1).values, torch.arange(16).expand(9, -1))


def test_pixels_that_lie_in_their_places_are_left_there() -> None:
    image = photos(5)
    assert torch.equal(put_back(image, 4, ONE)[0], image)
