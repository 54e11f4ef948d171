"""Augmentation of batches: what it does to pixels and labels, for each image alone, and that the generator alone decides."""

import pytest
import torch
from torch import Tensor

from privbench.training.augment import Border, erase, mix, random_crop_and_flip, trivial_augment


@pytest.mark.parametrize("border", ["constant", "reflect"])
def test_augmentation_shifts_and_mirrors_whole_images(border: Border, generator: torch.Generator) -> None:
    images = torch.randint(1, 255, (64, 3, 8, 8), generator=generator, dtype=torch.uint8)
    augmented = random_crop_and_flip(images, 2, generator, border)
    padded = torch.nn.functional.pad(images.float(), (2, 2, 2, 2), mode=border).to(torch.uint8)
    kinds = set()
    for before, after in zip(padded, augmented, strict=True):
        found = [
            (row, column, mirrored)
            for row in range(5)
            for column in range(5)
            for mirrored in (False, True)
            if torch.equal(after.flip(-1) if mirrored else after, before[:, row : row + 8, column : column + 8])
        ]
        assert found
        kinds.add(found[0])
    assert len({mirrored for *_, mirrored in kinds}) == 2
    assert len(kinds) > 10


def _pictures(count: int, generator: torch.Generator) -> Tensor:
    return torch.nn.functional.interpolate(torch.rand(count, 3, 4, 4, generator=generator), size=32, mode="bicubic").clamp(0, 1)


def test_operations_keep_range_and_shape_and_follow_the_generator(generator: torch.Generator) -> None:
    images = _pictures(400, generator)
    first, again, other = (trivial_augment(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == images.shape
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    untouched = float((first == images).flatten(1).all(1).float().mean())
    # One of thirteen is the identity; a contrast that is stretched already is another.
    assert 0.03 < untouched < 0.2


def test_an_image_alone_decides_what_its_operation_makes_of_it(generator: torch.Generator) -> None:
    images = _pictures(60, generator)
    changed = images.clone()
    changed[1:] = _pictures(59, generator)
    one, two = (trivial_augment(given, torch.Generator().manual_seed(4)) for given in (images, changed))
    assert torch.equal(one[0], two[0])
    assert not torch.equal(one[1:], two[1:])


def test_erasing_covers_a_rectangle_of_a_share_of_the_images(generator: torch.Generator) -> None:
    images = torch.ones(600, 3, 32, 32)
    covered = (erase(images, 0.5, generator) != 1).any(1)
    touched = covered.flatten(1).any(1)
    assert float(touched.float().mean()) == pytest.approx(0.5, abs=0.07)
    for mask in covered[touched][:20]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None])
    assert float(covered[touched].float().mean()) < 0.21
    assert torch.equal(erase(images, 0.0, generator), images)


def test_labels_are_mixed_as_the_pixels_are(generator: torch.Generator) -> None:
    # Image i has the colour i / n everywhere, so that its mean says how much of the other one came in.
    count = 200
    colours = torch.arange(count) / count
    images = colours[:, None, None, None].expand(count, 3, 32, 32)
    targets = torch.eye(count)
    mixed, labels = mix(images, targets, 0.5, generator)
    assert torch.allclose(labels.sum(1), torch.ones(count), atol=1e-5)
    assert torch.allclose(mixed.mean((1, 2, 3)), labels @ colours, atol=1e-4)
    changed = labels.diagonal() < 1
    assert float(changed.float().mean()) == pytest.approx(0.5, abs=0.12)
    pasted = torch.tensor([len(one.unique()) == 2 for one in mixed])
    assert 0.2 < float(pasted[changed].float().mean()) < 0.8
