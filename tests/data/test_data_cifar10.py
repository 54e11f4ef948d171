"""CIFAR-10 through torchvision: the official files' layout, and a machine that cannot download them."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privbench.core import UserError
from privbench.data import open_images
from privbench.data.cifar10 import open_cifar10

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class OldType:
    """uint8 with align=0 for False, as in the official files: NumPy from 2.4 on warns of it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.dtype, ("u1", 0), (3, "|", None, None, None, -1, -1, 0)


class OldArray:
    """An array with that type."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __reduce__(self) -> tuple[Any, ...]:
        state = (1, self.array.shape, OldType(), False, self.array.tobytes())
        reconstruct = self.array.__reduce__()[0]
        return reconstruct, (np.ndarray, (0,), b"b"), state


def write_official_layout(root: Path) -> dict[str, np.ndarray]:
    """Six batches of four images in the folder that torchvision unpacks."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(3)
    written = {}
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        rows = generator.integers(0, 256, (4, 3072), dtype=np.uint8)
        labels = generator.integers(0, 10, 4).tolist()
        (folder / name).write_bytes(pickle.dumps({"data": OldArray(rows), "labels": labels}, protocol=2))
        written[name] = rows
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": CLASSES}, protocol=2))
    return written


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    # The made-up batches have other checksums than the official ones.
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, *_: Path(path).exists())
    return write_official_layout(tmp_path)


def test_rows_are_planes_of_red_green_blue(tmp_path: Path, official: dict[str, np.ndarray], no_network: list[str]) -> None:
    pixels, labels = open_cifar10("test", root=tmp_path).as_tensors(32)
    assert np.array_equal(pixels.numpy(), official["test_batch"].reshape(4, 3, 32, 32))
    assert labels.shape == (4,)
    assert no_network == []


def test_training_split_joins_the_five_batches(tmp_path: Path, official: dict[str, np.ndarray]) -> None:
    images = open_images("cifar10", "train", root=tmp_path)
    assert len(images) == 20
    loaded, _ = images.load([19], 32)
    assert np.array_equal((loaded[0] * 255).round().numpy(), official["data_batch_5"][3].reshape(3, 32, 32))
    assert images.image_name(12) == "train-00012"
    assert images.class_names == tuple(CLASSES)
    assert not images.nominal_labels


def test_data_folder_from_the_environment(
    tmp_path: Path, official: dict[str, np.ndarray], no_network: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIVBENCH_DATA", str(tmp_path))
    assert len(open_images("cifar10")) == 4


def test_reading_prints_nothing(tmp_path: Path, official: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    open_cifar10("test", root=tmp_path)
    assert capsys.readouterr().out == ""


def test_without_network_the_remedy_is_named(tmp_path: Path, no_network: list[str]) -> None:
    with pytest.raises(UserError, match=r"^cannot download CIFAR-10 into .* \(.+\).*--data FOLDER_WITH_PARQUET$") as caught:
        open_images("cifar10", root=tmp_path)
    assert no_network
    assert "\n" not in str(caught.value)


def test_default_folder_is_the_cache(tmp_path: Path, no_network: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRIVBENCH_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=rf"into {tmp_path}/\.cache/privbench "):
        open_images("cifar10")


def test_folder_that_cannot_be_written(tmp_path: Path, no_network: list[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot download CIFAR-10 into .*file"):
        open_images("cifar10", root=tmp_path / "file")
    assert no_network == []


def test_splits(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown split of cifar10 'val'; accepted: test, train"):
        open_cifar10("val", root=tmp_path)
