"""The patch grid against slicing by hand."""

import torch

from privbench.core.patches import from_patches, rearrange, to_patches


def test_patches_count_row_by_row(generator: torch.Generator) -> None:
    images = torch.rand(2, 3, 8, 12, generator=generator)
    patches = to_patches(images, 4)
    assert patches.shape == (2, 6, 3, 4, 4)
    for index in range(6):
        row, column = divmod(index, 3)
        by_hand = images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert torch.equal(patches[:, index], by_hand)
    assert torch.equal(from_patches(patches, 8, 12), images)


def test_rearranging_takes_from_the_given_place_and_inverts(generator: torch.Generator) -> None:
    images = torch.rand(1, 3, 8, 8, generator=generator)
    order = torch.tensor([2, 0, 3, 1])
    moved = rearrange(images, order, 4)
    assert torch.equal(moved[..., :4, :4], images[..., 4:, :4])
    assert torch.equal(rearrange(moved, torch.argsort(order), 4), images)
