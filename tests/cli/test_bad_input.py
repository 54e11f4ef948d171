"""Bad input: one line that says what was given and what to do, exit code 2, and nothing written."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from safetensors.torch import save_file


def refused(answer: Result, *words: str) -> None:
    assert answer.exit_code == 2, (answer.stdout, answer.stderr, answer.exception)
    assert answer.stdout == ""
    (line,) = answer.stderr.splitlines()
    assert line.startswith("Error: ")
    assert "Traceback" not in line
    for word in words:
        assert word in line


@pytest.fixture
def nothing_written(tmp_path: Path) -> Callable[[], None]:
    """Checks that the folder of the command holds what it held before."""
    ignored = {"data", "weights.safetensors", "weights.pth", "case.yaml"}

    def check() -> None:
        assert {path.name for path in tmp_path.iterdir()} <= ignored

    return check


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--defense", "mpj"], ["unknown defense 'mpj'", "did you mean mjp"]),
        (["--defense", "none,,mjp"], ["empty entry"]),
        (["--defense", "mjp:mask_ratio=1.5"], ["mask_ratio", "less than or equal to 1", "1.5"]),
        (["--defense", "mjp:mask_ratoi=0.5"], ["mask_ratoi", "did you mean mask_ratio"]),
        (["--defense", "gradient-noise+clipping"], ["clipping cannot follow gradient-noise", "write clipping+gradient-noise"]),
        (["--defense", "pruning:p=1"], ["defense pruning", "p: ", "less than 1"]),
        (["--attack", "test-wlak"], ["unknown attack 'test-wlak'", "did you mean test-walk"]),
        (["--preset", "papre"], ["unknown preset 'papre'", "short, long"]),
        (["--set", "attack.stesp=3"], ["stesp", "did you mean steps"]),
        (["--set", "attack.steps=many"], ["steps", "valid integer", "many"]),
        (["--set", "sede=3"], ["unknown setting 'sede'", "did you mean seed"]),
        (["--set", "seed"], ["KEY=VALUE"]),
        (["--model", "vit_mini_patch4_23"], ["unknown model 'vit_mini_patch4_23'", "did you mean vit_mini_patch4_32"]),
        (["--model", "resnet18", "--defense", "mjp"], ["defense mjp needs a vision transformer"]),
        (["--data", "photo"], ["unknown dataset 'photo'", "did you mean photos"]),
        (["--data", "absent/folder"], ["absent/folder"]),
        (["--split", "tset"], ["'tset'", "test"]),
        (["--indices", "0,x"], ["cannot read the indices '0,x'"]),
        (["--indices", "99"], ["no image 99"]),
        (["--limit", "99"], ["99", "8 images"]),
        (["--limit", "0"], ["--limit 0"]),
        (["--limit", "3", "--batch-size", "2"], ["3 images do not fill batches of 2"]),
        (["--batch-size", "9", "--limit", "9"], ["9 is larger than the data", "8 images"]),
        (["--batch-size", "0"], ["batch_size is 0"]),
        (["--seed", "-1"], ["seed", "greater than or equal to 0"]),
        (["--weights", "absent.pth"], ["absent.pth"]),
        (["--lpips-weights", "absent.pth"], ["absent.pth"]),
        (["--device", "gpu"], ["unknown device 'gpu'"]),
        (["--config", "absent.yaml"], ["absent.yaml"]),
    ],
)
def test_names_and_values(
    arguments: list[str], words: list[str], small_run: Callable[..., Result], nothing_written: Callable[[], None]
) -> None:
    refused(small_run(*arguments), *words)
    nothing_written()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["run", "--checkpoint-interval", "nan"], ["nan is not a finite number", "x>=0"]),
        (["run", "--threads", "two"], ["'two' is not a valid whole number"]),
        (["verify", "4f2a", "--tolerance", "inf"], ["inf is not a finite number", "x>=0"]),
        (["score", "photos", "others", "--seed", "9" * 30], ["is not in the range", "2147483647"]),
        (["train", "--learning-rate", "nan"], ["nan is not a finite number", "x>0"]),
        (["evaluate", "--epsilon", "nan"], ["nan is not a finite number"]),
    ],
)
def test_numbers_of_options(
    command: list[str], words: list[str], privbench: Callable[..., Result], nothing_written: Callable[[], None]
) -> None:
    refused(privbench(*command), *words)
    nothing_written()


def test_cuda_where_there_is_none(
    small_run: Callable[..., Result], nothing_written: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(small_run("--device", "cuda"), "'cuda' is not there", "use --device cpu")
    nothing_written()


def picture(path: Path, size: tuple[int, int] = (40, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(path)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n broken"])
def test_files_that_are_no_images_are_named(
    content: bytes, small_run: Callable[..., Result], nothing_written: Callable[[], None], tmp_path: Path
) -> None:
    picture(tmp_path / "data" / "a.png")
    (tmp_path / "data" / "b.png").write_bytes(content)
    refused(small_run("--data", "data"), "b.png")
    nothing_written()


def test_an_image_smaller_than_the_model_is_named(
    small_run: Callable[..., Result], nothing_written: Callable[[], None], tmp_path: Path
) -> None:
    picture(tmp_path / "data" / "a.png")
    picture(tmp_path / "data" / "tiny.png", (20, 40))
    refused(small_run("--data", "data"), "tiny.png", "40x20", "32x32")
    nothing_written()


def test_an_empty_folder_of_images(
    small_run: Callable[..., Result], nothing_written: Callable[[], None], tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    refused(small_run("--data", "data"), "no images in data")
    nothing_written()


def test_labels_that_the_model_does_not_know(
    small_run: Callable[..., Result], nothing_written: Callable[[], None], tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        picture(tmp_path / "data" / name / "image.png")
    refused(small_run("--data", "data", "--set", "victim.model.num_classes=2"), "label 2", "0 to 1")
    nothing_written()


def test_weights_that_do_not_fit_the_model(
    small_run: Callable[..., Result], nothing_written: Callable[[], None], tmp_path: Path
) -> None:
    save_file({"network.head.weight": torch.zeros(3, 3)}, str(tmp_path / "weights.safetensors"))
    refused(small_run("--weights", "weights.safetensors"), "weights.safetensors", "do not fit test-vit")
    nothing_written()


def test_weights_that_would_run_code(
    small_run: Callable[..., Result], nothing_written: Callable[[], None], tmp_path: Path
) -> None:
    torch.save({"state_dict": Touching(tmp_path / "executed")}, tmp_path / "weights.pth")
    refused(small_run("--weights", "weights.pth"), "weights.pth")
    nothing_written()


class Touching:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("content", ["", "[", "a: 1", "schema_version: 99"])
def test_a_broken_case_file(
    content: str, small_run: Callable[..., Result], nothing_written: Callable[[], None], tmp_path: Path
) -> None:
    (tmp_path / "case.yaml").write_text(content)
    refused(small_run("--config", "case.yaml"), "case.yaml")
    nothing_written()


def test_an_output_that_is_a_file(small_run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    refused(small_run(), "out is a file")
    assert (tmp_path / "out").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_output(small_run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o555)
    refused(small_run(), "read-only")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_output_that_the_system_calls_read_only(
    small_run: Callable[..., Result], nothing_written: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    refused(small_run(), "read-only", "--output")
    nothing_written()


def test_a_disk_that_is_full_leaves_no_half_written_file(
    small_run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    answer = small_run("--quiet")
    assert answer.exit_code == 2
    assert "No space left on device" in answer.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_an_attack_that_does_not_apply(small_run: Callable[..., Result], nothing_written: Callable[[], None]) -> None:
    refused(small_run("--attack", "test-walk:largest_batch=1", "--batch-size", "2"), "at most 1 images")
    nothing_written()


def test_with_several_defenses_the_last_ones_mistake_is_found_before_the_first_one_runs(
    small_run: Callable[..., Result], nothing_written: Callable[[], None]
) -> None:
    refused(small_run("--model", "resnet18", "--defense", "none,mjp", "--data", "photos"), "mjp needs a vision transformer")
    nothing_written()


@pytest.mark.parametrize("kind", ["missing", "empty", "broken"])
def test_leaderboards_of_nothing(kind: str, privbench: Callable[..., Result], tmp_path: Path) -> None:
    if kind != "missing":
        (tmp_path / "records").mkdir()
    if kind == "broken":
        (tmp_path / "records" / "record.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    refused(privbench("leaderboard", "records", "-o", "out.csv"), "records")
    assert sorted(tmp_path.rglob("*")) == before
