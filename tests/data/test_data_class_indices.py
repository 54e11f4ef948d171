"""A folder's class is the model's: ImageNet's where folders are named by wnids, `classes.csv`'s where there is one."""

from pathlib import Path

import pytest
from PIL import Image

from privbench.core import UserError
from privbench.data import open_images
from privbench.data.class_indices import class_indices


def _folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), "red").save(root / name / "a.png")
    return root


def test_wnids_have_imagenets_indices(tmp_path: Path) -> None:
    images = open_images(str(_folders(tmp_path / "d", "n02102040", "n01440764", "n03888257")))
    assert dict(zip(images.names, images.labels, strict=True)) == {
        "n01440764/a.png": 0,
        "n02102040/a.png": 217,
        "n03888257/a.png": 701,
    }
    assert len(images.class_names) == 1000
    assert images.class_names[217] == "n02102040"


def test_the_real_photos_have_the_indices_of_their_list(shared_data: Path, tmp_path: Path) -> None:
    """Also without the list: the folders' names are enough."""
    names = sorted(path.name for path in (shared_data / "imagenet-val").iterdir() if path.is_dir())
    with_list, _ = class_indices(shared_data / "imagenet-val", names)
    without, _ = class_indices(tmp_path, names)
    assert with_list == without
    assert with_list["n03445777"] == 574


def test_a_list_beside_the_folders_decides(tmp_path: Path) -> None:
    root = _folders(tmp_path / "d", "cat", "dog")
    (root / "classes.csv").write_text("folder,index\ndog,1\ncat,4\n")
    images = open_images(str(root))
    assert images.labels == (4, 1)
    assert images.class_names == ("0", "dog", "2", "3", "cat")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("folder,index\ndog,1\n", "no row for the folder cat"),
        ("a,b\ndog,1\n", "needs a column for the folder"),
        ("folder,index\ndog,-1\ncat,2\n", "the class of dog is '-1'"),
        ("folder,index\ndog,1e9\ncat,2\n", "the class of dog is '1e9'"),
        ("folder,index\ndog,99999999999999999999\ncat,2\n", "accepted: a whole number"),
        ("", "it has none"),
    ],
)
def test_a_list_that_does_not_say_it_is_refused(text: str, words: str, tmp_path: Path) -> None:
    root = _folders(tmp_path / "d", "cat", "dog")
    (root / "classes.csv").write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        open_images(str(root))
    assert "\n" not in str(caught.value)


def test_other_folders_are_numbered_as_they_are_sorted(tmp_path: Path) -> None:
    assert open_images(str(_folders(tmp_path / "d", "n02102040", "dogs"))).labels == (0, 1)
