"""The contract of an image set, on made-up pixels."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from PIL import Image

from privbench.core import UserError
from privbench.data import ImageSet
from privbench.data.base import numbered_classes

PIXELS = np.random.default_rng(1).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)


def reader(pixels: np.ndarray, seen: list[int] | None = None) -> Callable[[int], Image.Image]:
    def read(index: int) -> Image.Image:
        if seen is not None:
            seen.append(index)
        return Image.fromarray(pixels[index])

    return read


@pytest.fixture
def images() -> ImageSet:
    return ImageSet("made-up", "test", ("a", "b", "c"), (2, 0, 1, 1, 0), tuple("vwxyz"), reader(PIXELS))


def test_load_gives_the_pixels_in_the_order_asked_for(images: ImageSet) -> None:
    loaded, labels = images.load([3, 0], 16)
    assert (loaded.shape, loaded.dtype, labels.dtype) == ((2, 3, 16, 16), torch.float32, torch.int64)
    assert labels.tolist() == [1, 2]
    expected = PIXELS[[3, 0]].transpose(0, 3, 1, 2)
    assert np.array_equal((loaded * 255).round().numpy(), expected)
    assert loaded.min() >= 0
    assert loaded.max() <= 1


def test_load_does_not_follow_the_default_dtype(images: ImageSet) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert images.load([0], 16)[0].dtype == torch.float32
    finally:
        torch.set_default_dtype(before)


def test_only_what_is_asked_for_is_decoded() -> None:
    seen: list[int] = []
    images = ImageSet("made-up", "test", ("a",), (0,) * 5, tuple("vwxyz"), reader(PIXELS, seen))
    assert len(images) == 5
    images.load([4, 1], 16)
    assert seen == [4, 1]


def test_as_tensors_is_the_whole_set_in_order(images: ImageSet) -> None:
    pixels, labels = images.as_tensors(16)
    assert pixels.dtype == torch.uint8
    assert pixels.is_contiguous()
    assert np.array_equal(pixels.numpy(), PIXELS.transpose(0, 3, 1, 2))
    assert labels.tolist() == [2, 0, 1, 1, 0]


def test_as_tensors_decodes_no_more_than_is_asked_for(images: ImageSet) -> None:
    seen: list[int] = []

    def counted(index: int) -> Image.Image:
        seen.append(index)
        return images.read(index)

    pixels, labels = replace(images, read=counted).as_tensors(16, 2)
    assert seen == [0, 1]
    assert torch.equal(pixels, images.as_tensors(16)[0][:2])
    assert labels.tolist() == [2, 0]
    assert len(images.as_tensors(16, 99)[0]) == len(images)


def test_training_and_attack_see_the_same_pixels(images: ImageSet) -> None:
    loaded, _ = images.load(range(5), 8)
    assert torch.equal(images.as_tensors(8)[0] / 255, loaded)


def test_fingerprint_tells_contents_apart(images: ImageSet) -> None:
    reference = images.fingerprint([0, 1], 16)
    changed = PIXELS.copy()
    changed[1, 7, 7, 2] ^= 1
    assert len(reference) == 64
    different = {
        "one bit of one pixel": replace(images, read=reader(changed)).fingerprint([0, 1], 16),
        "one label": replace(images, labels=(2, 1, 1, 1, 0)).fingerprint([0, 1], 16),
        "the order": images.fingerprint([1, 0], 16),
        "the selection": images.fingerprint([0], 16),
        "the size": images.fingerprint([0, 1], 8),
    }
    assert reference not in different.values()
    assert len(set(different.values())) == len(different)


def test_fingerprint_keeps_images_apart() -> None:
    """14 black images of 2x2 and 5 of 4x4 are the same 280 zero bytes, labels included."""
    black = ImageSet("black", "test", ("a",), (0,) * 14, ("n",) * 14, reader(np.zeros((14, 4, 4, 3), np.uint8)))
    assert black.fingerprint(range(14), 2) != black.fingerprint(range(5), 4)


def test_fingerprint_ignores_names_and_unselected_images(images: ImageSet) -> None:
    changed = PIXELS.copy()
    changed[4] = 0
    other = replace(images, name="elsewhere", split="train", names=tuple("12345"), read=reader(changed))
    assert other.fingerprint([0, 1], 16) == images.fingerprint([0, 1], 16)


@pytest.mark.parametrize("index", [-1, 5, 10**9])
def test_position_out_of_range(images: ImageSet, index: int) -> None:
    calls: list[Callable[[], object]] = [
        lambda: images.image_name(index),
        lambda: images.label(index),
        lambda: images.load([0, index], 16),
        lambda: images.fingerprint([index], 16),
    ]
    for call in calls:
        with pytest.raises(UserError, match=rf"made-up \(test\) has no image {index}; accepted: 0 to 4"):
            call()


def test_small_image_is_refused_by_name(images: ImageSet) -> None:
    with pytest.raises(UserError, match=r"image x is 16x16 pixels, the model needs at least 32x32"):
        images.load([2], 32)


def test_set_is_frozen(images: ImageSet) -> None:
    with pytest.raises(FrozenInstanceError):
        images.name = "other"  # type: ignore[misc]


def test_repr_is_short() -> None:
    many = ImageSet("many", "train", ("a",), (0,) * 50_000, ("n",) * 50_000, reader(PIXELS))
    assert len(repr(many)) < 200


@pytest.mark.parametrize("label", [-1, 3])
def test_label_without_a_class_is_refused(images: ImageSet, label: int) -> None:
    with pytest.raises(UserError, match=rf"image w has label {label}; accepted: 0 to 2"):
        replace(images, labels=(2, label, 1, 1, 0))


def test_empty_set_is_refused() -> None:
    with pytest.raises(UserError, match=r"made-up \(test\) has no images"):
        ImageSet("made-up", "test", ("a",), (), (), reader(PIXELS))


def test_real_labels_are_never_folded(images: ImageSet) -> None:
    assert images.for_classes(3) is images
    assert images.for_classes(1000) is images
    with pytest.raises(UserError, match=r"image v has label 2; accepted: 0 to 1"):
        images.for_classes(2)


def test_nominal_labels_are_folded(images: ImageSet) -> None:
    folded = replace(images, nominal_labels=True).for_classes(2)
    assert folded.labels == (0, 0, 1, 1, 0)
    assert folded.class_names == ("a", "b")
    assert len(replace(images, nominal_labels=True).for_classes(1000).class_names) == 1000
    assert folded.fingerprint([0], 16) != images.fingerprint([0], 16)


def test_absurd_label_does_not_fill_the_memory() -> None:
    with pytest.raises(UserError, match="it has the label 1099511627776; accepted: class indices"):
        numbered_classes("it", [0, 2**40])
