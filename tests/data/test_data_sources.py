"""What `--data` accepts: names, paths, and answers to everything else."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from privbench.core import UserError
from privbench.core.registry import DATASETS
from privbench.data import BUILT_IN, ImageSet, open_images

Picture = Callable[..., Image.Image]


def open_made_up(split: str = "test", *, root: Path | None = None) -> ImageSet:
    """A third party's data set."""
    return ImageSet(f"made-up in {root}", split, ("a",), (0,), ("only",), lambda _: Image.new("RGB", (32, 32)))


@pytest.fixture
def registered() -> Iterator[None]:
    DATASETS.register("made-up", open_made_up)
    yield
    DATASETS.unregister("made-up")


def test_built_in_names_are_registered() -> None:
    assert {"photos", "cifar10"} == set(BUILT_IN)
    assert set(BUILT_IN) <= set(DATASETS.names())
    for name in BUILT_IN:
        assert callable(DATASETS.get(name))


def test_third_party_set_gets_split_and_root(registered: None, tmp_path: Path) -> None:
    images = open_images("made-up", "val", root=tmp_path)
    assert (images.name, images.split) == (f"made-up in {tmp_path}", "val")


def test_name_goes_before_a_folder_of_the_same_spelling(
    tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    picture().save(tmp_path / "photos" / "mine.png")
    assert open_images("photos").names[0] == "astronaut"
    assert open_images("./photos").names == ("mine.png",)


def test_home_folder(tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    picture().save(tmp_path / "mine.png")
    assert open_images("~/mine.png").names == ("mine.png",)


def test_relative_folder_has_a_name(tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pictures").mkdir()
    picture().save(tmp_path / "pictures" / "mine.png")
    monkeypatch.chdir(tmp_path / "pictures")
    assert open_images(".").name == "pictures"


@pytest.mark.parametrize("beside", ["metadata.parquet", "embeddings.npz"])
@pytest.mark.parametrize("layout", ["1.png", "cat/1.png"])
def test_tables_beside_images_do_not_hide_them(tmp_path: Path, picture: Picture, beside: str, layout: str) -> None:
    (tmp_path / layout).parent.mkdir(exist_ok=True)
    picture().save(tmp_path / layout)
    (tmp_path / beside).write_bytes(b"no images in here")
    assert open_images(str(tmp_path)).names == (layout,)


def test_unknown_name_lists_names_and_says_that_a_path_will_do() -> None:
    with pytest.raises(UserError) as caught:
        open_images("photo")
    message = str(caught.value)
    assert "unknown dataset 'photo'; did you mean photos?" in message
    assert "cifar10, photos; or a path: a parquet file" in message
    assert "\n" not in message


@pytest.mark.parametrize("source", ["no/such/folder", "/no/such/folder", "missing.npz", "./missing"])
def test_missing_path(source: str) -> None:
    with pytest.raises(
        UserError, match=rf"^no such file or folder: {source}; accepted: .* or a name: cifar10, photos"
    ) as caught:
        open_images(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["", " "])
def test_empty_source_is_not_the_current_folder(source: str) -> None:
    with pytest.raises(UserError, match=f"unknown dataset '{source}'; accepted: cifar10, photos"):
        open_images(source)


@pytest.mark.parametrize("source", ["~nobody-of-that-name/x", "a\0b", "x" * 5000])
def test_what_is_no_path(source: str) -> None:
    with pytest.raises(UserError) as caught:
        open_images(source)
    assert "\n" not in str(caught.value)


def test_path_through_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot open .*file/x.* \(Not a directory\)"):
        open_images(str(tmp_path / "file" / "x"))


def test_unknown_ending(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"")
    with pytest.raises(UserError, match=r"images\.zip.*accepted: \.bmp, .*\.npz, \.parquet"):
        open_images(str(tmp_path / "images.zip"))


def test_global_state_is_left_as_found(tmp_path: Path, picture: Picture) -> None:
    import warnings

    picture().save(tmp_path / "a.png")
    before = (list(warnings.filters), str(np.random.get_state()), Image.MAX_IMAGE_PIXELS)  # noqa: NPY002
    open_images(str(tmp_path)).as_tensors(32)
    after = (list(warnings.filters), str(np.random.get_state()), Image.MAX_IMAGE_PIXELS)  # noqa: NPY002
    assert after == before
