"""NumPy archives, in every accepted form and in the usual wrong ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privbench.core import UserError
from privbench.data import open_images

PIXELS = np.random.default_rng(2).integers(0, 256, (4, 8, 10, 3), dtype=np.uint8)


def write(file: Path, **arrays: Any) -> str:
    np.savez(file, **arrays)
    return str(file)


@pytest.mark.parametrize(
    "images",
    [PIXELS, PIXELS.transpose(0, 3, 1, 2), PIXELS / 255, (PIXELS / 255).astype(np.float32), np.asfortranarray(PIXELS)],
    ids=["uint8", "channels-first", "float64", "float32", "fortran"],
)
def test_every_form_gives_the_same_pixels(tmp_path: Path, images: np.ndarray) -> None:
    opened = open_images(write(tmp_path / "set.npz", images=images, labels=np.array([3, 1, 0, 1])))
    assert (opened.name, opened.split, opened.labels) == ("set.npz", "test", (3, 1, 0, 1))
    assert opened.class_names == ("0", "1", "2", "3")
    assert opened.image_name(2) == "test-00002"
    for index in range(4):
        assert np.array_equal(np.asarray(opened.read(index)), PIXELS[index])


@pytest.mark.parametrize("images", [PIXELS[..., :1], PIXELS[..., :1].transpose(0, 3, 1, 2)])
def test_grey(tmp_path: Path, images: np.ndarray) -> None:
    loaded, _ = open_images(write(tmp_path / "set.npz", images=images)).load([1], 8)
    expected = PIXELS[1, :, 1:9, 0]
    assert np.array_equal((loaded[0] * 255).round().numpy(), np.stack([expected] * 3))


def test_float_is_rounded_to_the_nearest_level(tmp_path: Path) -> None:
    images = np.full((1, 8, 8, 3), 0.5 / 255 + 1e-6)
    assert (open_images(write(tmp_path / "set.npz", images=images)).as_tensors(8)[0] == 1).all()


def test_without_labels(tmp_path: Path) -> None:
    opened = open_images(write(tmp_path / "set.npz", images=PIXELS))
    assert opened.labels == (0,) * 4
    assert opened.flags == ("labels-absent",)
    assert opened.nominal_labels


def test_splits_by_file_name(tmp_path: Path) -> None:
    write(tmp_path / "train.npz", images=PIXELS, labels=[0, 1, 2, 3])
    write(tmp_path / "test.npz", images=PIXELS[:2], labels=[0, 1])
    assert len(open_images(str(tmp_path), "train")) == 4
    assert len(open_images(str(tmp_path))) == 2
    with pytest.raises(UserError, match=r"unknown split of .* 'val'; accepted: test, train"):
        open_images(str(tmp_path), "val")
    with pytest.raises(UserError, match=r"unknown split of .*train\.npz 'test'; accepted: train"):
        open_images(str(tmp_path / "train.npz"))


def test_same_content_same_fingerprint_as_another_layout(tmp_path: Path) -> None:
    """What the source is does not matter: the pixels and labels are the identity."""
    from PIL import Image

    (tmp_path / "flat").mkdir()
    for index in range(4):
        Image.fromarray(PIXELS[index]).save(tmp_path / "flat" / f"{index}.png")
    archive = open_images(write(tmp_path / "set.npz", images=PIXELS))
    assert archive.fingerprint(range(4), 8) == open_images(str(tmp_path / "flat")).fingerprint(range(4), 8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": PIXELS}, r"has no array 'images' but x; accepted: images"),
        ({"images": PIXELS[0]}, r"images have the shape \(8, 10, 3\); accepted: \[n, height, width, channels\]"),
        ({"images": np.zeros((2, 8, 8, 4), np.uint8)}, r"images have the shape \(2, 8, 8, 4\)"),
        ({"images": PIXELS.astype(np.int64)}, r"images have the type int64; accepted: uint8, or float in \[0, 1\]"),
        ({"images": PIXELS > 3}, r"images have the type bool"),
        ({"images": PIXELS.astype(float)}, r"float images range from 0 to 255; accepted: 0 to 1"),
        ({"images": PIXELS / 255 - 0.5}, r"float images range from -0.5 to 0.5"),
        ({"images": np.full((1, 8, 8, 3), np.nan)}, r"float images range from nan"),
        ({"images": PIXELS, "labels": [0, 1]}, r"labels have the shape \(2,\) .*one for each of the 4 images"),
        ({"images": PIXELS, "labels": np.eye(4, dtype=int)}, r"labels have the shape \(4, 4\)"),
        ({"images": PIXELS, "labels": [0.0, 1.0, 2.0, 3.0]}, r"type float64; accepted: integers"),
        ({"images": PIXELS, "labels": [0, 1, -1, 3]}, r"image test-00002 has label -1"),
        ({"images": PIXELS[:0]}, r"has no images"),
        ({"images": PIXELS[:0] / 255, "labels": np.zeros(0, int)}, r"has no images"),
        ({"images": np.array([{"a": 1}])}, r"cannot read .* as a \.npz archive \(Object arrays"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_images(write(tmp_path / "set.npz", **arrays))


def test_small_images_are_refused(tmp_path: Path) -> None:
    for images in (PIXELS, np.zeros((1, 0, 0, 3), np.uint8)):
        with pytest.raises(UserError, match=r"pixels, the model needs at least 32x32"):
            open_images(write(tmp_path / "set.npz", images=images)).load([0], 32)


def test_broken_archives(tmp_path: Path) -> None:
    whole = Path(write(tmp_path / "whole.npz", images=PIXELS)).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    lone = tmp_path / "lone.npy"
    np.save(lone, PIXELS)
    for content in (b"", b"text", whole[: len(whole) // 2], bytes(flipped), lone.read_bytes()):
        file = tmp_path / "broken.npz"
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"cannot read .*broken\.npz as a \.npz archive \(.+\)") as caught:
            open_images(str(file))
        assert "\n" not in str(caught.value)
