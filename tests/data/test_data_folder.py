"""Folders of images: ImageFolder, flat, with splits, and everything that is in the way."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from privbench.core import UserError
from privbench.data import open_images

Picture = Callable[..., Image.Image]


def save(image: Image.Image, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)
    return file


@pytest.fixture
def classes(tmp_path: Path, picture: Picture) -> Path:
    """Three classes, written in disorder, with files beside them that are no images."""
    folder = tmp_path / "animals"
    for seed, name in enumerate(["dog/b.PNG", "cat/z.jpeg", "dog/a.png", "eel/1.webp", "cat/y.bmp"]):
        save(picture(seed=seed), folder / name)
    (folder / "notes.csv").write_text("class,index\n")
    (folder / "dog" / "notes.txt").write_text("good dogs")
    (folder / ".cache").mkdir()
    (folder / "cat" / "._z.jpeg").write_bytes(b"what macOS leaves behind")
    return folder


def test_labels_follow_the_sorted_class_folders(classes: Path) -> None:
    images = open_images(str(classes))
    assert images.class_names == ("cat", "dog", "eel")
    named = {images.image_name(index): images.label(index) for index in range(len(images))}
    assert named == {"cat/y.bmp": 0, "cat/z.jpeg": 0, "dog/a.png": 1, "dog/b.PNG": 1, "eel/1.webp": 2}
    assert (images.name, images.split, images.flags, images.nominal_labels) == ("animals", "test", (), False)


def test_pixels_belong_to_the_name(classes: Path, picture: Picture) -> None:
    images = open_images(str(classes))
    assert np.array_equal(np.asarray(images.read(images.names.index("dog/a.png"))), np.asarray(picture(seed=2)))


def test_same_order_as_torchvision(classes: Path) -> None:
    from torchvision.datasets import ImageFolder

    (classes / "cat" / "._z.jpeg").unlink()
    (classes / ".cache").rmdir()
    theirs = [(Path(file).relative_to(classes).as_posix(), label) for file, label in ImageFolder(str(classes)).samples]
    images = open_images(str(classes))
    assert list(zip(images.names, images.labels, strict=True)) == theirs


def test_flat_folder_has_no_labels_and_says_so(tmp_path: Path, picture: Picture) -> None:
    for name in ("b.png", "a.png"):
        save(picture(), tmp_path / "flat" / name)
    images = open_images(str(tmp_path / "flat"))
    assert images.names == ("a.png", "b.png")
    assert images.labels == (0, 0)
    assert images.flags == ("labels-absent",)
    assert images.nominal_labels


def test_files_that_are_no_images_are_counted(tmp_path: Path, picture: Picture) -> None:
    for name in ("cat/a.png", "dog/b.png"):
        save(picture(), tmp_path / name)
    assert open_images(str(tmp_path)).left_out == ""
    for name in ("cat/c.gif", "dog/d.gif", "dog/e.txt", "README.md", ".hidden", "notes"):
        (tmp_path / name).write_text("x")
    said = f"{tmp_path}: 4 files are left out, no images of an accepted kind (2 .gif, 1 .txt, 1 no ending)"
    assert open_images(str(tmp_path)).left_out == said


def test_single_file(tmp_path: Path, picture: Picture) -> None:
    images = open_images(str(save(picture(), tmp_path / "me.png")))
    assert (images.name, images.names, images.labels, images.flags) == ("me.png", ("me.png",), (0,), ("labels-absent",))


def test_split_folders(tmp_path: Path, picture: Picture) -> None:
    save(picture(seed=1), tmp_path / "set" / "train" / "cat" / "1.png")
    save(picture(seed=2), tmp_path / "set" / "train" / "dog" / "2.png")
    save(picture(seed=3), tmp_path / "set" / "val" / "3.png")
    train = open_images(str(tmp_path / "set"), "train")
    assert (train.name, train.split, train.names) == ("set", "train", ("cat/1.png", "dog/2.png"))
    assert open_images(str(tmp_path / "set"), "val").names == ("3.png",)
    with pytest.raises(UserError, match=r"unknown split of .*set 'test'; accepted: train, val"):
        open_images(str(tmp_path / "set"))


def test_folder_without_splits_is_not_trained_on(classes: Path) -> None:
    with pytest.raises(UserError, match=r"unknown split of .*animals 'train'; accepted: test"):
        open_images(str(classes), "train")


def test_a_class_may_be_called_train(tmp_path: Path, picture: Picture) -> None:
    for name in ("bus", "train"):
        save(picture(), tmp_path / "vehicles" / name / "1.png")
    assert open_images(str(tmp_path / "vehicles")).class_names == ("bus", "train")


def test_opening_decodes_nothing(classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise AssertionError("decoded too early")

    monkeypatch.setattr(Image, "open", fail)
    assert len(open_images(str(classes))) == 5


def test_broken_image_is_an_error_that_names_it(classes: Path) -> None:
    file = classes / "dog" / "a.png"
    file.write_text("I am a text")
    images = open_images(str(classes))
    images.load([0, 1], 32)
    with pytest.raises(UserError, match=rf"cannot decode the image {file} \(not one of"):
        images.load([2], 32)


def test_dangling_link_is_an_error_that_names_it(classes: Path) -> None:
    (classes / "dog" / "c.png").symlink_to(classes / "nowhere.png")
    with pytest.raises(UserError, match=r"dog/c\.png \(No such file"):
        open_images(str(classes)).as_tensors(32)


def test_links_are_followed(classes: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(classes, target_is_directory=True)
    linked = open_images(str(tmp_path / "linked"))
    assert linked.fingerprint(range(5), 32) == open_images(str(classes)).fingerprint(range(5), 32)


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no images in .*empty; accepted: \.bmp \.jpeg"):
        open_images(str(tmp_path / "empty"))


def test_empty_class_folder(classes: Path) -> None:
    (classes / "ant").mkdir()
    with pytest.raises(UserError, match=r"class folder .*ant has no images; remove it"):
        open_images(str(classes))


def test_mixed_layout(classes: Path, picture: Picture) -> None:
    save(picture(), classes / "stray.png")
    with pytest.raises(UserError, match="animals holds both images and folders of images; keep either"):
        open_images(str(classes))


def test_tiny_image_is_named_with_its_size(tmp_path: Path, picture: Picture) -> None:
    save(picture(50, 20), tmp_path / "set" / "cat" / "tiny.png")
    with pytest.raises(UserError, match=r"image cat/tiny\.png is 50x20 pixels, the model needs at least 32x32"):
        open_images(str(tmp_path / "set")).load([0], 32)


def test_unicode_names(tmp_path: Path, picture: Picture) -> None:
    save(picture(), tmp_path / "Größe" / "猫" / "été 1.png")
    images = open_images(str(tmp_path / "Größe"))
    assert (images.name, images.class_names, images.names) == ("Größe", ("猫",), ("猫/été 1.png",))
    images.load([0], 32)


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX only")
def test_names_that_are_no_unicode_can_still_be_stored(tmp_path: Path, picture: Picture) -> None:
    target = tmp_path / os.fsdecode(b"\xff.png")
    try:
        save(picture(), tmp_path / "a.png").rename(target)
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    images = open_images(str(tmp_path))
    assert images.names[0].encode() == b"\xef\xbf\xbd.png"
    images.load([0], 32)
    target.write_bytes(b"broken")
    with pytest.raises(UserError) as caught:
        images.load([0], 32)
    str(caught.value).encode()


@pytest.mark.parametrize("method", ["iterdir", "stat"])
def test_folder_without_permission(classes: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(UserError, match=r"cannot (open|read).*animals.*\(Permission denied\); check"):
        open_images(str(classes))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_real_permissions(classes: Path) -> None:
    (classes / "dog" / "a.png").chmod(0)
    with pytest.raises(UserError, match=r"dog/a\.png \(Permission denied\)"):
        open_images(str(classes)).as_tensors(32)
    (classes / "dog").chmod(0)
    try:
        with pytest.raises(UserError, match=r"cannot read the folder .*dog \(Permission denied\)"):
            open_images(str(classes))
    finally:
        (classes / "dog").chmod(0o755)


def test_the_path_does_not_enter_the_fingerprint(classes: Path, tmp_path: Path) -> None:
    before = open_images(str(classes)).fingerprint(range(5), 32)
    (classes / "eel" / "1.webp").rename(classes / "eel" / "renamed.webp")
    classes.rename(tmp_path / "moved")
    assert open_images(str(tmp_path / "moved")).fingerprint(range(5), 32) == before


def test_moving_an_image_to_another_class_changes_the_fingerprint(tmp_path: Path, picture: Picture) -> None:
    for folder in ("one", "two"):
        save(picture(seed=8), tmp_path / folder / "a" / "0.png")
        save(picture(seed=9), tmp_path / folder / "c" / "0.png")
    save(picture(seed=9), tmp_path / "two" / "b" / "0.png")
    one, two = open_images(str(tmp_path / "one")), open_images(str(tmp_path / "two"))
    assert one.fingerprint([0], 32) == two.fingerprint([0], 32)
    assert one.fingerprint([1], 32) == two.fingerprint([1], 32)  # c is the second class of one, b of two
    assert one.fingerprint([1], 32) != two.fingerprint([2], 32)  # the same pixels, another label


def test_real_imagenet_folder(shared_data: Path) -> None:
    images = open_images(str(shared_data / "imagenet-val"))
    assert (len(images), len(images.class_names)) == (100, 1000)
    assert images.image_name(0) == "n01440764/ILSVRC2012_val_00000293.JPEG"
    pixels, labels = images.as_tensors(224)
    assert pixels.shape == (100, 3, 224, 224)
    counts = labels.bincount()
    assert counts[counts > 0].tolist() == [10] * 10
    assert counts[217] == 10, "n02102040, the English springer"


def test_pipes_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("images/a.png", "b.npz", "c.parquet", "d.png"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=r"a\.png is no regular file"):
        open_images(str(tmp_path / "images")).load([0], 8)
    for name in ("b.npz", "c.parquet", "d.png"):
        with pytest.raises(UserError, match=rf"{name} is no regular file \(a pipe or a device\)"):
            open_images(str(tmp_path / name))
