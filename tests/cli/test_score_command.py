"""`privbench score`: another tool's pictures get the scores that the suite would give, and what does not match is refused."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import Result
from PIL import Image
from safetensors.torch import save_file
from skimage.metrics import peak_signal_noise_ratio

Score = Callable[..., Result]


@pytest.fixture
def score(privbench: Score) -> Score:
    """`privbench score` without a download."""
    return lambda *arguments: privbench("score", "--no-download", *map(str, arguments))


@pytest.fixture
def pixels() -> np.ndarray:
    """Three originals, `[3, 32, 32, 3]` uint8."""
    rows, columns = np.meshgrid(np.arange(32), np.arange(32), indexing="ij")
    base = np.stack([8 * rows, 8 * columns, 4 * (rows + columns)], axis=-1)
    return np.stack([base, base[::-1], base[:, ::-1]]).astype(np.uint8)


def folder(path: Path, images: np.ndarray, names: str = "abc") -> Path:
    path.mkdir()
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(path / f"{name}.png")
    return path


def test_folders_are_matched_by_name_and_scored_as_8_bit(score: Score, pixels: np.ndarray, tmp_path: Path) -> None:
    noisy = np.clip(pixels.astype(int) + np.random.default_rng(0).integers(-9, 10, pixels.shape), 0, 255).astype(np.uint8)
    originals, found = folder(tmp_path / "o", pixels), folder(tmp_path / "r", noisy[::-1], "cba")
    answer = score(originals, found, "--patch-size", "4", "-o", tmp_path / "scores.csv")
    assert answer.exit_code == 0, answer.output
    assert "3 reconstructions, 8-bit pixels" in answer.stdout
    assert "n/a" not in answer.stdout
    rows = pd.read_csv(tmp_path / "scores.csv").set_index("original")
    assert rows["reconstruction"].tolist() == ["a", "b", "c"]
    for place, name in enumerate("abc"):
        expected = peak_signal_noise_ratio(pixels[place], noisy[place])  # type: ignore[no-untyped-call]
        assert rows.loc[name, "psnr"] == pytest.approx(expected, abs=1e-4)
    assert (rows["psnr_patch"] >= rows["psnr"]).all()


def test_files_that_are_no_pictures_are_counted(score: Score, pixels: np.ndarray, tmp_path: Path) -> None:
    originals, found = folder(tmp_path / "o", pixels), folder(tmp_path / "r", pixels)
    (found / "notes.txt").write_text("x")
    answer = score(originals, found)
    assert answer.exit_code == 0, answer.output
    assert f"{found}: 1 file is left out, no images of an accepted kind (1 .txt)" in answer.stdout.replace("\n", "")


def test_weights_that_are_a_pipe_are_refused(score: Score, pixels: np.ndarray, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    answer = score(folder(tmp_path / "o", pixels), tmp_path / "o", "--lpips-weights", tmp_path / "pipe")
    assert answer.exit_code == 2
    assert "are no regular file (a folder, a pipe or a device)" in answer.stderr


def test_arrays_are_matched_by_order_or_by_assignment_and_floats_are_not_rounded(
    score: Score, pixels: np.ndarray, tmp_path: Path
) -> None:
    originals = folder(tmp_path / "o", pixels)
    floats = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    floats = (floats * 0.999)[[1, 0, 2]]
    torch.save({"images": floats, "other": torch.zeros(1)}, tmp_path / "r.pt")
    save_file({"x": floats.contiguous()}, str(tmp_path / "r.safetensors"))
    np.savez(tmp_path / "r.npz", images=floats.numpy())
    np.save(tmp_path / "r.npy", floats.permute(0, 2, 3, 1).numpy())
    tables = []
    for name in ("r.pt", "r.safetensors", "r.npz", "r.npy"):
        answer = score(originals, tmp_path / name, "--batch-size", "3", "-o", tmp_path / "scores.csv")
        assert answer.exit_code == 0, answer.output
        assert "float pixels" in answer.stdout
        tables.append(pd.read_csv(tmp_path / "scores.csv"))
        assert tables[-1].equals(tables[0])
    assert tables[0]["reconstruction"].tolist() == [1, 0, 2]
    # A thousandth of brightness is under half a level: rounding to 8 bits would hide it.
    assert tables[0]["psnr"].between(60, 80).all()
    assert score(originals, tmp_path / "r.pt", "-o", tmp_path / "in-order.csv").exit_code == 0
    assert pd.read_csv(tmp_path / "in-order.csv")["psnr"].iloc[0] < 20


def test_what_does_not_match_is_one_line(score: Score, pixels: np.ndarray, tmp_path: Path) -> None:
    originals = folder(tmp_path / "o", pixels)
    small = folder(tmp_path / "small", pixels[:, :24, :24])
    other = folder(tmp_path / "other", pixels, "abd")
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "two.npy", pixels[:2])
    np.save(tmp_path / "wide.npy", pixels.astype(np.float32))
    np.save(tmp_path / "flat.npy", pixels[0])
    (tmp_path / "broken.pt").write_bytes(b"no torch file")
    (tmp_path / "notes.txt").write_text("x")
    for given, words in [
        (other, "no reconstruction is named c"),
        (small, "reconstructions are 24x24, originals 32x32"),
        (tmp_path / "empty", "there are no image files"),
        (tmp_path / "absent", "there is no"),
        (tmp_path / "two.npy", "2 reconstructions of 3 originals"),
        (tmp_path / "wide.npy", "pictures range from 0 to"),
        (tmp_path / "flat.npy", "pictures have the shape (32, 32, 3)"),
        (tmp_path / "broken.pt", "cannot read"),
        (tmp_path / "notes.txt", "cannot read"),
    ]:
        answer = score(originals, given)
        assert answer.exit_code == 2, (given, answer.output)
        assert words in answer.output
        assert answer.output.count("\n") == 1
    assert "do not fill batches of 2" in score(originals, originals, "--batch-size", "2").output


def written(place: Path, pixels: np.ndarray, names: list[str]) -> Path:
    place.mkdir()
    for name, picture in zip(names, pixels, strict=True):
        Image.fromarray(picture).save(place / f"{name}.png")
    return place


def test_folders_and_arrays_are_paired_as_people_number_them(score: Score, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    originals = written(tmp_path / "o", pixels, [f"img_{number}" for number in range(1, 13)])
    np.save(tmp_path / "r.npy", pixels)
    assert score(originals, tmp_path / "r.npy", "-o", tmp_path / "scores.csv").exit_code == 0
    assert (pd.read_csv(tmp_path / "scores.csv")["mse"] == 0).all()


def test_hidden_files_and_the_form_of_umlauts_make_no_difference(score: Score, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    originals = written(tmp_path / "o", pixels, ["b\u00e4r", "cat"])
    found = written(tmp_path / "r", pixels, ["ba\u0308r", "cat"])
    written(tmp_path / "x", pixels[:1], [".hidden"])
    (tmp_path / "x" / ".hidden.png").rename(found / ".hidden.png")
    answer = score(originals, found, "-o", tmp_path / "scores.csv")
    assert answer.exit_code == 0, answer.output
    assert (pd.read_csv(tmp_path / "scores.csv")["mse"] == 0).all()


@pytest.mark.parametrize("kind", [">f4", ">f8", "<f2", ">u2", "<i8", "uint8"])
def test_the_order_of_bytes_and_the_kind_of_numbers_make_no_difference(kind: str, score: Score, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 32, 3), dtype=np.uint8)
    originals = written(tmp_path / "o", pixels, ["a", "b"])
    values = pixels.astype(kind) / 255 if "f" in kind else pixels
    np.save(tmp_path / "r.npy", values.astype(kind))
    answer = score(originals, tmp_path / "r.npy", "-o", tmp_path / "scores.csv")
    assert answer.exit_code == 0, answer.output
    assert (pd.read_csv(tmp_path / "scores.csv")["mse"] < 1e-6).all()


def test_the_best_match_takes_one_picture_and_partial_sets(score: Score, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    originals = written(tmp_path / "o", pixels, list("abcde"))
    one = written(tmp_path / "one", pixels[3:4] // 2 + 60, ["whatever"])
    some = written(tmp_path / "some", pixels[[4, 0]], ["x", "y"])
    for found, pairs in ((one, [("d", "whatever")]), (some, [("a", "y"), ("e", "x")])):
        assert score(originals, found).exit_code == 2
        answer = score(originals, found, "--match", "best", "-o", tmp_path / "scores.csv")
        assert answer.exit_code == 0, answer.output
        table = pd.read_csv(tmp_path / "scores.csv")
        assert list(zip(table["original"], table["reconstruction"], strict=True)) == pairs
        assert all(name in answer.stdout for pair in pairs for name in pair)
