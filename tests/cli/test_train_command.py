"""`privbench train` as a user calls it."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from privbench.cli import main


@pytest.fixture
def easy_data(tmp_path: Path) -> Path:
    """Two classes, dark and bright, as train.npz and test.npz."""
    folder = tmp_path / "easy"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train", 64), ("test", 20)):
        labels = np.arange(count) % 2
        images = rng.integers(0, 60, (count, 32, 32, 3)) + labels[:, None, None, None] * 180
        np.savez(folder / f"{name}.npz", images=images.astype(np.uint8), labels=labels)
    return folder


def _train(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["train", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_it_trains_says_how_well_and_writes_weights_with_a_card(easy_data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    code, stdout, stderr = _train(
        *("--defense", "mjp:mask_ratio=0.2", "--data", str(easy_data)),
        *("--epochs", "2", "--batch-size", "16", "--snapshots", "1", "--output", str(output)),
    )
    assert code == 0, stderr
    assert (output / "vit_mini_patch4_32.mjp.epoch1.safetensors").exists()
    assert not (output / "vit_mini_patch4_32.mjp.epoch2.safetensors").exists()
    assert "vit_mini_patch4_32 trained with mjp:mask_ratio=0.2: top-1" in stdout
    assert "epoch 2/2" in stderr
    card = json.loads((output / "vit_mini_patch4_32.mjp.json").read_text())
    assert (output / "vit_mini_patch4_32.mjp.safetensors").exists()
    # The command repeats the numbers and tells nothing about the machine.
    assert card["command"] == "privbench train --defense mjp:mask_ratio=0.2 --data PATH --epochs 2 --batch-size 16"
    assert "mask_ratio=0.2" in card["defense"]
    assert f"guarantee of mjp:mask_ratio=0.2: {card['guarantee']}" in stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--defense", "mpj"], "did you mean mjp"),
        (["--model", "vit_mini"], "unknown model 'vit_mini'"),
        (["--defense", "mjp", "--model", "cnn_mini_32", "--batch-size", "16"], "needs a vision transformer"),
        (["--data", "nowhere/at/all"], "no such file or folder"),
        (["--batch-size", "65"], "64 training images are fewer than one batch of 65"),
        (["--learning-rate", "-1"], "'--learning-rate'"),
        (["--learning-rate", "nan"], "nan is not a finite number; accepted: x>0"),
        (["--weight-decay", "nan"], "nan is not a finite number; accepted: x>=0"),
        (["--weight-decay", "inf"], "inf is not a finite number; accepted: x>=0"),
        (["--seed", "99999999999999999999999999"], "0<=x<=2147483647"),
        (["--epochs", "x"], "'x' is not a valid whole number"),
        (["--limit", "65"], "--limit 65 is larger than the data"),
        (["--output", "/proc/x"], "cannot write to /proc/x: "),
        (["--defense", "precode:size=100000000000"], "less than or equal to 65536"),
        (["--device", "cuda:99"], "not there"),
        (["--snapshots", "0"], "snapshots after epochs 0; accepted: epochs from 1 to 1"),
        (["--snapshots", "1,2"], "snapshots after epochs 1,2; accepted: epochs from 1 to 1"),
        (["--snapshots", "first"], "cannot read the snapshots 'first'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], message: str, easy_data: Path, tmp_path: Path) -> None:
    given = arguments if "--data" in arguments else [*arguments, "--data", str(easy_data)]
    code, stdout, stderr = _train("--epochs", "1", "--output", str(tmp_path / "out"), *given)
    assert code == 2, (stdout, stderr)
    assert message in stderr
    assert stderr.strip().splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in stderr
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_data_without_two_splits_of_labelled_images_of_the_same_classes_is_refused(easy_data: Path, tmp_path: Path) -> None:
    def refused(data: Path, *words: str) -> None:
        code, _, stderr = _train("--data", str(data), "--epochs", "1", "--output", str(tmp_path / "out"))
        assert code == 2
        (line,) = stderr.strip().splitlines()
        for word in words:
            assert word in line
        assert not (tmp_path / "out").exists()

    lone = easy_data.rename(tmp_path / "moved") / "test.npz"
    refused(lone, "training needs the splits train and test", "test.npz has no train", "give a folder")
    folder = tmp_path / "folders"
    for name in ("train/cat", "train/dog", "train/elk", "test/cat", "test/elk"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), "teal").save(folder / name / "one.png")
    # "elk" would be class 2 of the training images and class 1 of the test images.
    refused(folder, "different classes (dog)")
    for name in ("train/one.png", "test/one.png"):
        target = tmp_path / "flat" / name
        target.parent.mkdir(parents=True)
        Image.new("RGB", (32, 32), "teal").save(target)
    refused(tmp_path / "flat", "have no labels")
