"""The hub's parquet layout, made up and real."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from privbench.core import UserError
from privbench.data import open_images

Picture = Callable[..., Image.Image]


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def cells(picture: Picture, seeds: Sequence[int]) -> list[dict[str, Any]]:
    return [{"bytes": png(picture(32, 32, seed=seed)), "path": f"{seed}.png"} for seed in seeds]


def write(file: Path, columns: dict[str, Any], **options: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file, **options)
    return file


@pytest.fixture
def hub(tmp_path: Path, picture: Picture) -> Path:
    """Training images 0..8 in three shards with row groups of two, test images 100..103."""
    folder = tmp_path / "hub"
    for shard in (2, 0, 1):
        seeds = range(3 * shard, 3 * shard + 3)
        columns = {"img": cells(picture, seeds), "label": list(seeds)}
        write(folder / f"train-{shard:05d}-of-00003.parquet", columns, row_group_size=2)
    test = {"img": cells(picture, range(100, 104)), "label": [3, 1, 4, 1]}
    write(folder / "test-00000-of-00001-b42a775f407cee45.parquet", test)
    (folder / "README.md").write_text("a card")
    return folder


def test_shards_are_joined_in_order(hub: Path, picture: Picture) -> None:
    images = open_images(str(hub), "train")
    assert images.labels == tuple(range(9))
    pixels, _ = images.as_tensors(32)
    assert np.array_equal(pixels.numpy(), np.stack([np.asarray(picture(32, 32, seed=i)).transpose(2, 0, 1) for i in range(9)]))


def test_images_are_found_in_any_order(hub: Path) -> None:
    images = open_images(str(hub), "train")
    whole = images.as_tensors(32)[0] / 255
    order = [8, 0, 5, 2, 3, 7, 0]
    assert torch.equal(images.load(order, 32)[0], whole[order])


def test_splits_are_kept_apart(hub: Path) -> None:
    images = open_images(str(hub))
    assert (images.name, images.split, images.labels) == ("hub", "test", (3, 1, 4, 1))
    assert images.image_name(3) == "test-00003"
    with pytest.raises(UserError, match=r"unknown split of .*hub 'validation'; accepted: test, train"):
        open_images(str(hub), "validation")


def test_opening_decodes_nothing(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise AssertionError("decoded too early")

    monkeypatch.setattr("privbench.data.parquet.decode", fail)
    monkeypatch.setattr("privbench.data.parquet._encoded", fail)
    assert len(open_images(str(hub), "train")) == 9


def test_a_row_group_is_read_once_in_order(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from privbench.data import parquet

    reads: list[int] = []
    original = parquet._encoded

    def counted(content: Any, group: int) -> Any:
        reads.append(group)
        return original(content, group)

    monkeypatch.setattr(parquet, "_encoded", counted)
    open_images(str(hub), "train").as_tensors(32)
    assert reads == [0, 1, 0, 1, 0, 1]


def test_single_file_is_the_split_of_its_name(hub: Path, tmp_path: Path, picture: Picture) -> None:
    shard = hub / "train-00001-of-00003.parquet"
    assert open_images(str(shard), "train").labels == (3, 4, 5)
    with pytest.raises(UserError, match=r"unknown split of .*train-00001.* 'test'; accepted: train"):
        open_images(str(shard))
    other = write(tmp_path / "mine.parquet", {"image": cells(picture, [1]), "label": [0]})
    assert open_images(str(other)).split == "test"
    with pytest.raises(UserError, match="accepted: test"):
        open_images(str(other), "train")  # or one would train on what is then tested


@pytest.mark.parametrize("image_column", ["img", "image"])
@pytest.mark.parametrize("label_column", ["label", "fine_label"])
@pytest.mark.parametrize("raw", [True, False])
def test_columns(tmp_path: Path, picture: Picture, image_column: str, label_column: str, raw: bool) -> None:
    content = [png(picture(32, 32, seed=7))] if raw else cells(picture, [7])
    labels = {label_column: pa.array([5], pa.uint8()), "coarse_label": [0]}
    file = write(tmp_path / "a.parquet", {image_column: content, **labels})
    images = open_images(str(file))
    assert images.labels == (5,)
    assert np.array_equal(np.asarray(images.read(0)), np.asarray(picture(32, 32, seed=7)))


def test_class_names_of_the_hub(tmp_path: Path, picture: Picture) -> None:
    described = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": cells(picture, [1]), "label": [1]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(described)}), tmp_path / "test.parquet")
    assert open_images(str(tmp_path)).class_names == ("cat", "dog")


@pytest.mark.parametrize("metadata", ["no json", "[]", '{"info": {"features": {}}}'])
def test_strange_metadata_is_passed_over(tmp_path: Path, picture: Picture, metadata: str) -> None:
    table = pa.table({"image": cells(picture, [1]), "label": [1]})
    pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), tmp_path / "test.parquet")
    assert open_images(str(tmp_path)).class_names == ("0", "1")


def test_missing_shard_is_an_error(hub: Path) -> None:
    (hub / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(
        UserError, match=r"shards of split 'train' are not complete: train-00000-of-00003\.parquet, train-00002"
    ):
        open_images(str(hub), "train")
    assert len(open_images(str(hub))) == 4


def test_shard_given_twice_is_an_error(hub: Path) -> None:
    (hub / "test.parquet").write_bytes((hub / "test-00000-of-00001-b42a775f407cee45.parquet").read_bytes())
    with pytest.raises(UserError, match=r"not complete.*each is needed exactly once"):
        open_images(str(hub))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [1]}, r"has no image column but label; accepted: img or image"),
        ({"image": [b"x"], "target": [1]}, r"has no label column but image, target; accepted: label or fine_label"),
        ({"image": ["x.png"], "label": [1]}, r"column image has the type string; accepted: bytes"),
        ({"image": [{"path": "x"}], "label": [1]}, r"column image has the type struct<.*>; accepted: bytes"),
        ({"image": [b"x"], "label": ["cat"]}, r"column label has the type string; accepted: integers"),
        ({"image": [b"x"], "label": [0.5]}, r"column label has the type double; accepted: integers"),
        ({"image": [b"x", b"y"], "label": [1, None]}, r"1 images have no label"),
        ({"image": [b"x", b"y"], "label": [1, -1]}, r"image test-00001 has label -1; accepted: 0 to 1"),
        ({"image": [b"x"], "label": [2**40]}, r"has the label 1099511627776"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, r"has no images"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_images(str(write(tmp_path / "test.parquet", columns)))


@pytest.mark.parametrize("cell", [None, {"bytes": None, "path": "elsewhere.png"}])
def test_image_without_bytes(tmp_path: Path, picture: Picture, cell: dict[str, Any] | None) -> None:
    file = write(tmp_path / "test.parquet", {"image": [*cells(picture, [1]), cell], "label": [0, 0]})
    images = open_images(str(file))
    images.load([0], 32)
    with pytest.raises(UserError, match=r"image test-00001 has no bytes"):
        images.load([1], 32)


def test_broken_image_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "test.parquet", {"image": [b"no image"], "label": [0]})
    with pytest.raises(UserError, match=r"cannot decode the image test-00000 of .*test\.parquet"):
        open_images(str(file)).load([0], 32)


@pytest.mark.parametrize("kept", [0, 10, 300])
def test_broken_file_is_named(hub: Path, kept: int) -> None:
    file = hub / "test-00000-of-00001-b42a775f407cee45.parquet"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"cannot read the parquet file .*test-00000.*; get it again") as caught:
        open_images(str(hub))
    assert "\n" not in str(caught.value)


def test_file_that_vanishes_after_opening(hub: Path) -> None:
    images = open_images(str(hub))
    (hub / "test-00000-of-00001-b42a775f407cee45.parquet").unlink()
    with pytest.raises(UserError, match="cannot read the parquet file"):
        images.load([0], 32)


def test_the_path_does_not_enter_the_fingerprint(hub: Path, tmp_path: Path) -> None:
    before = open_images(str(hub)).fingerprint(range(4), 32)
    hub.rename(tmp_path / "moved")
    assert open_images(str(tmp_path / "moved")).fingerprint(range(4), 32) == before


@pytest.mark.integration
def test_real_test_set(shared_data: Path) -> None:
    images = open_images(str(shared_data / "cifar10"))
    assert len(images) == 10_000
    assert [images.label(index) for index in range(10)] == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert np.bincount(images.labels).tolist() == [1000] * 10
    pixels, labels = images.as_tensors(32)
    assert pixels.shape == (10_000, 3, 32, 32)
    assert labels.tolist() == list(images.labels)


@pytest.mark.nightly
def test_real_training_set(shared_data: Path) -> None:
    pixels, labels = open_images(str(shared_data / "cifar10"), "train").as_tensors(32)
    assert pixels.shape == (50_000, 3, 32, 32)
    assert labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    # The channel means and deviations that the literature normalises CIFAR-10 with.
    for channel, mean, std in zip(range(3), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), strict=True):
        values = pixels[:, channel].float() / 255
        assert values.mean().item() == pytest.approx(mean, abs=1e-4)
        assert values.std().item() == pytest.approx(std, abs=1e-4)
