"""`privbench calibrate`, `identify`, `compare`, `verify` and `schema`, as a user meets them."""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from click.testing import Result
from PIL import Image
from torchvision.models import squeezenet1_1

from privbench.core import Calibration, Identification, Record
from privbench.models import build_model, default_spec

Cli = Callable[..., Result]


def test_scores_are_placed_and_images_found_among_candidates(finished: Path, privbench: Cli) -> None:
    answer = privbench("calibrate", "out", "--no-download")
    assert answer.exit_code == 0, answer.output
    assert "jpeg-10: the truth as a JPEG of quality 10" in answer.stdout
    (path,) = finished.glob("calibration--*.json")
    rows = Calibration.load(path).rows
    assert rows["jpeg-10"]["psnr"].mean > rows["uniform-noise"]["psnr"].mean

    answer = privbench("identify", "out", "--candidates", "6", "--no-download")
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.count("top-1 / top-5 of 6: pixel") == 2
    found = [Identification.load(path) for path in finished.glob("*/identification.json")]
    assert {tuple(one.ranks) for one in found} == {("pixel", "lpips", "feature")}
    assert all(1 <= rank <= 6 for one in found for ranks in one.ranks.values() for rank in ranks)

    assert privbench("leaderboard", "out", "-o", "board.csv").exit_code == 0
    board = pd.read_csv("board.csv")
    assert board["psnr_between"].str.contains("..", regex=False).all()
    assert (board["identified_of"] == 6).all()
    assert board["identified_pixel_top1"].notna().all()
    assert board["identified_lpips_top1"].notna().all()


def test_too_many_candidates_are_refused(finished: Path, privbench: Cli) -> None:
    answer = privbench("identify", "out", "--candidates", "100", "--no-download")
    assert answer.exit_code == 2
    assert "accepted: 2 to 7" in answer.stderr


def test_defenses_are_compared_on_the_same_images(finished: Path, privbench: Cli) -> None:
    answer = privbench("compare", "out")
    assert answer.exit_code == 0, answer.output
    assert "difference from none on the same images; Wilcoxon signed-rank" in answer.stdout
    (row,) = [line for line in answer.stdout.splitlines() if "test-walk" in line]
    assert row.split()[0] == "mjp"
    assert row.split()[-1] == "2"
    assert "the defenses there: mjp, none" in privbench("compare", "out", "--baseline", "no-pe").stderr
    assert "accepted: fft2d_cosine" in privbench("compare", "out", "--metric", "sharpness").stderr


def test_a_record_holds_and_one_that_was_improved_does_not(finished: Path, privbench: Cli) -> None:
    path = next(finished.glob("none--*/record.json"))
    answer = privbench("verify", str(path.parent), "--no-download", "--quiet")
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.splitlines()[-1] == "holds, equal to the last bit"
    content = json.loads(path.read_bytes())
    # Every image improved alike, so that the summary still follows from the images.
    for image in content["images"]:
        image["scores"]["psnr"] += 0.7
    for bound in ("mean", "low", "high"):
        content["summary"]["psnr"][bound] += 0.7
    path.write_text(json.dumps(content), encoding="utf-8")
    answer = privbench("verify", str(path.parent), "--no-download", "--quiet")
    assert answer.exit_code == 1
    assert answer.stdout.splitlines()[-1] == "does not hold: psnr"
    assert privbench("verify", str(path.parent), "--no-download", "--quiet", "--tolerance", "2").exit_code == 0
    content["case"]["seed"] = 5
    path.write_text(json.dumps(content), encoding="utf-8")
    answer = privbench("verify", str(path.parent), "--no-download", "--quiet")
    assert answer.exit_code == 2
    assert "was changed" in answer.stderr


def test_a_schema_is_printed(privbench: Cli) -> None:
    assert json.loads(privbench("schema", "record").stdout)["title"] == "Record"
    assert privbench("schema", "picture").exit_code == 2


def test_a_record_is_verified_with_files_of_other_names(small_run: Cli, privbench: Cli, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "there" / f"{index}.png")
    torch.save(build_model(default_spec("test-vit")).state_dict(), tmp_path / "there.pt")
    answer = small_run("--defense", "none", "--data", "there", "--weights", "there.pt")
    assert answer.exit_code == 0, answer.output
    (path,) = tmp_path.glob("out/none--*")
    (tmp_path / "there").rename(tmp_path / "here")
    (tmp_path / "there.pt").rename(tmp_path / "here.pt")
    verify = ("verify", str(path), "--no-download", "--quiet")
    assert "unknown dataset 'there'" in privbench(*verify).stderr
    assert "there.pt" in privbench(*verify, "--data", "here").stderr
    answer = privbench(*verify, "--data", "here", "--weights", "here.pt")
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.splitlines()[-1] == "holds, equal to the last bit"
    torch.save(build_model(default_spec("test-vit")).state_dict(), tmp_path / "other.pt")
    answer = privbench(*verify, "--data", "here", "--weights", "other.pt")
    assert answer.exit_code == 2
    assert "the weights other.pt are not those of the case (sha256 differs); name the right file with" in answer.stderr
    answer = privbench(*verify, "--data", "photos", "--weights", "here.pt")
    assert answer.exit_code == 2
    assert "the images of photos are not those of the case" in answer.stderr


def test_a_record_is_verified_with_the_trunk_of_its_lpips(
    finished: Path, small_run: Cli, privbench: Cli, tmp_path: Path
) -> None:
    for name in ("one.pth", "two.pth"):
        torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / name)
    answer = small_run("--defense", "none", "--lpips-net", "squeeze", "--lpips-weights", "one.pth")
    assert answer.exit_code == 0, answer.output
    places = {str(Record.load(path).case.lpips): str(path.parent) for path in finished.glob("none--*/record.json")}
    record = Record.load(Path(places["squeeze"]) / "record.json")
    assert record.lpips_weights_sha256 == hashlib.sha256((tmp_path / "one.pth").read_bytes()).hexdigest()
    verify = ("verify", "--no-download", "--quiet")
    held = privbench(*verify, places["squeeze"], "--lpips-weights", "one.pth")
    assert held.stdout.splitlines()[-1] == "holds, equal to the last bit", held.output
    for place, trunk, said in (
        ("squeeze", "two.pth", f"sha256 is {record.lpips_weights_sha256[:12]}, that of two.pth is"),
        ("squeeze", None, f"sha256 is {record.lpips_weights_sha256[:12]}, no file is given"),
        ("squeeze", "three.pth", "there is no LPIPS weights file three.pth"),
        ("alex", "one.pth", "one.pth is not the LPIPS trunk"),
        ("alex", "three.pth", "there is no LPIPS weights file three.pth"),
    ):
        refused = privbench(*verify, places[place], *(("--lpips-weights", trunk) if trunk else ()))
        assert refused.exit_code == 2
        assert said in refused.stderr


def test_a_finished_case_is_not_taken_for_one_that_another_trunk_scored(small_run: Cli, privbench: Cli, tmp_path: Path) -> None:
    for name in ("one.pth", "two.pth"):
        torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / name)
    one = ("--defense", "none", "--lpips-net", "squeeze")
    assert small_run(*one, "--lpips-weights", "one.pth").exit_code == 0
    (path,) = tmp_path.glob("out/*/record.json")
    before = path.read_bytes()
    study = (
        "name: s\nsettings: {attack: test-walk, model: test-vit, weights: random, limit: 2, defense: none, lpips_net: squeeze}"
    )
    (tmp_path / "study.yaml").write_text(f"{study}\ngrid: [{{seed: 0}}]\n", encoding="utf-8")
    fast = ("--no-download", "--device", "cpu", "--output", "out")
    runs: tuple[Cli, ...] = (partial(small_run, *one), partial(privbench, "sweep", "study.yaml", *fast))
    for run in runs:
        for file, said in (("two.pth", "that of two.pth is"), ("three.pth", "there is no LPIPS weights file three.pth")):
            refused = run("--lpips-weights", file)
            assert refused.exit_code == 2
            assert said in refused.stderr
        assert run("--lpips-weights", "one.pth").exit_code == 0
    assert len(list(tmp_path.glob("out/*/record.json"))) == 1
    assert path.read_bytes() == before
    assert small_run(*one).exit_code == 0
    assert small_run(*one, "--lpips-weights", "two.pth", "--force").exit_code == 0
    assert Record.load(path).lpips_weights_sha256 == hashlib.sha256((tmp_path / "two.pth").read_bytes()).hexdigest()


def test_what_scores_mean_is_told_by_the_trunk_of_their_lpips(small_run: Cli, privbench: Cli, tmp_path: Path) -> None:
    for name in ("one.pth", "two.pth"):
        torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / name)
    answer = small_run("--defense", "none", "--lpips-net", "squeeze", "--lpips-weights", "one.pth")
    assert answer.exit_code == 0, answer.output
    trunk = hashlib.sha256((tmp_path / "one.pth").read_bytes()).hexdigest()
    for command in (("calibrate", "out"), ("identify", "out", "--candidates", "6")):
        for given, said in ((("--lpips-weights", "two.pth"), "that of two.pth is"), ((), "no file is given")):
            refused = privbench(*command, "--no-download", *given)
            assert refused.exit_code == 2
            assert f"sha256 is {trunk[:12]}, {said}" in refused.stderr
        answer = privbench(*command, "--no-download", "--lpips-weights", "one.pth")
        assert answer.exit_code == 0, answer.output
    (calibration,) = tmp_path.glob("out/calibration--*.json")
    assert Calibration.load(calibration).lpips_weights_sha256 == trunk
    (identification,) = tmp_path.glob("out/*/identification.json")
    assert Identification.load(identification).lpips_weights_sha256 == trunk
    assert privbench("leaderboard", "out", "-o", "board.csv").exit_code == 0
    board = pd.read_csv("board.csv")
    assert board["lpips_between"].str.contains("..", regex=False).all()
    assert board["identified_lpips_top1"].notna().all()


def test_weights_elsewhere_are_for_a_victim_of_a_file(finished: Path, privbench: Cli) -> None:
    path = next(finished.glob("none--*"))
    answer = privbench("verify", str(path), "--no-download", "--quiet", "--weights", "x.pt")
    assert answer.exit_code == 2
    assert "the victim of the case has random weights, of no file; leave --weights out" in answer.stderr
