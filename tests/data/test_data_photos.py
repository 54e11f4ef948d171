"""The embedded photographs: offline, in a fixed order, untouched by what else is installed."""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from privbench.core import UserError
from privbench.data import open_images, photos
from privbench.data.photos import open_photos


def test_first_four_and_their_order() -> None:
    images = open_photos()
    assert [images.image_name(index) for index in range(4)] == ["astronaut", "chelsea", "coffee", "rocket"]
    assert len(images) == 8


def test_labels_are_cifar10_classes_and_all_different() -> None:
    images = open_photos()
    by_name = {images.image_name(index): images.class_names[images.label(index)] for index in range(len(images))}
    assert by_name["rocket"] == "airplane"
    assert by_name["chelsea"] == "cat"
    assert len(set(images.labels)) == len(images)
    assert len(images.class_names) == 10


def test_labels_fit_a_smaller_model() -> None:
    images = open_photos()
    assert images.for_classes(2).labels == tuple(label % 2 for label in images.labels)


def test_pixels_need_neither_network_nor_pooch_nor_the_fetcher(no_network: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    loaded, labels = open_images("photos").load(range(8), 224)
    assert loaded.shape == (8, 3, 224, 224)
    assert labels.shape == (8,)
    assert no_network == []


def test_pixels_are_those_of_scikit_image() -> None:
    data: Any = importlib.import_module("skimage.data")
    images = open_photos()
    originals = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), data.stereo_motorcycle()[0]]
    originals += [data.immunohistochemistry(), data.retina(), data.hubble_deep_field()]
    for index, original in enumerate(originals):
        # JPEG decoders may differ in the last bit.
        assert np.abs(np.asarray(images.read(index)).astype(int) - original).max() <= 2


def test_photographs_are_colourful_and_distinct() -> None:
    loaded, _ = open_photos().load(range(8), 32)
    assert loaded.flatten(1).std(1).min() > 0.05
    distances = (loaded[:, None] - loaded[None]).square().flatten(2).mean(2)
    assert distances[~np.eye(8, dtype=bool)].min() > 0.005


def test_there_is_only_a_test_split() -> None:
    with pytest.raises(UserError, match="unknown split of photos 'train'; accepted: test"):
        open_photos("train")


def test_file_left_out_of_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "files", lambda _: tmp_path)
    with pytest.raises(UserError, match=r"scikit-image \d\S+ is installed without its file astronaut\.png"):
        open_photos().load([0], 32)


def test_model_larger_than_a_photo() -> None:
    with pytest.raises(UserError, match="image chelsea is 451x300 pixels, the model needs at least 384x384"):
        open_photos().load([0, 1], 384)


def test_cat_face_is_in_the_centre(tmp_path: Path) -> None:
    """The crop rule on a real photo: the middle 300 columns of 451."""
    whole = open_photos().read(1)
    loaded, _ = open_photos().load([1], 300)
    assert isinstance(whole, Image.Image)
    expected = np.asarray(whole)[:, 75:375].transpose(2, 0, 1)
    assert np.array_equal((loaded[0] * 255).round().numpy(), expected)
