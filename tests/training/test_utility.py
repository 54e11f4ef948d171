"""Utility reports: each measure means what it says, and one that cannot be had is refused or says why."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file, save_file

from privbench.cli import main
from privbench.core import Interval, UserError, UtilityReport, build_defense, resolve_defense
from privbench.core.utility_report import MEASURED_FIELDS
from privbench.data.cifar10 import CIFAR10_CLASSES
from privbench.models import Victim, load_victim, resolve_victim
from privbench.plots.positions import PositionTable, position_points
from privbench.training import MeasureOptions, measure_utility
from privbench.training.corruptions import CORRUPTIONS, SEVERITIES, corrupt


@pytest.fixture
def photo() -> np.ndarray[Any, np.dtype[np.float64]]:
    """A smooth colourful picture, 32x32."""
    rows, columns = np.meshgrid(np.linspace(0, 1, 32), np.linspace(0, 1, 32), indexing="ij")
    return np.stack([rows, columns, 0.5 + 0.3 * np.sin(9 * rows * columns)], axis=-1)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("size", [32, 64])
def test_corruptions_stay_in_range_change_the_picture_and_repeat(name: str, size: int, photo: Any) -> None:
    picture = np.asarray(Image.fromarray(np.uint8(photo * 255)).resize((size, size))) / 255
    distances = []
    for severity in SEVERITIES:
        changed = corrupt(picture, name, severity, np.random.default_rng(0))
        assert changed.shape == picture.shape
        assert 0 <= changed.min() <= changed.max() <= 1
        assert np.array_equal(changed, corrupt(picture, name, severity, np.random.default_rng(0)))
        distances.append(np.abs(changed - picture).mean())
    assert min(distances) > 1e-4
    # The authors' scales of saturation change direction, and quality steps of JPEG hardly show on a smooth picture.
    assert name in {"saturate", "jpeg"} or distances[-1] > distances[0]


class Threshold(torch.nn.Module):
    """Two classes by the mean of the image against 0.5: every measure can be foreseen."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(1, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[-200.0], [200.0]]))
            self.head.bias.copy_(torch.tensor([100.0, -100.0]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.head(images.mean((1, 2, 3))[:, None])  # type: ignore[no-any-return]


def measured(victim: Victim, images: torch.Tensor, labels: torch.Tensor, epsilon: float) -> UtilityReport:
    spec = resolve_victim("vit_mini_patch4_32", "embedded", build_defense(resolve_defense("none")))
    none = resolve_defense("none")
    options = MeasureOptions(build_defense(resolve_defense("mjp:mask_ratio=0.5")), "mjp:mask_ratio=0.5", epsilon)
    return measure_utility(victim, spec, build_defense(none), none, images, labels, dataset="made", options=options)


def share(measured: Interval | None) -> float:
    assert measured is not None
    return measured.mean


def test_a_model_whose_margin_is_known_falls_exactly_when_epsilon_reaches_it() -> None:
    victim = Victim(Threshold(), image_size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    levels = torch.tensor([100, 120, 135, 155])
    images = levels.to(torch.uint8)[:, None, None, None].expand(4, 3, 32, 32).contiguous()
    labels = torch.tensor([0, 0, 1, 1])
    # Margins are 27.5, 7.5, 7.5 and 27.5 levels.
    small, middle, large = (measured(victim, images, labels, epsilon / 255) for epsilon in (6, 10, 30))
    assert [share(utility.fgsm_accuracy) for utility in (small, middle, large)] == [1.0, 0.5, 0.0]
    assert [share(utility.pgd_accuracy) for utility in (small, middle, large)] == [1.0, 0.5, 0.0]
    assert small.accuracy.mean == small.defended_accuracy.mean == 1.0
    assert small.calibration_error < 0.02
    assert {"rms_calibration_error", *MEASURED_FIELDS["jigsaw"], *MEASURED_FIELDS["positions"]} == small.unavailable.keys()
    wrong = measured(victim, images, 1 - labels, 6 / 255)
    assert wrong.accuracy.mean == 0.0
    assert wrong.calibration_error > 0.98


def test_the_masked_jigsaw_and_the_positions_of_an_embedded_victim() -> None:
    from privbench.data import open_images

    spec_defense = build_defense(resolve_defense("mjp"))
    spec = resolve_victim("vit_mini_patch4_32", "embedded", spec_defense)
    victim = load_victim(spec, spec_defense, generator=torch.Generator().manual_seed(0))
    images, labels = open_images("photos", "test").for_classes(10).as_tensors(32)
    before = torch.get_rng_state()
    utility = measured(victim, images[:2], labels[:2], 2 / 255)
    again = measured(victim, images[:2], labels[:2], 2 / 255)
    assert torch.equal(torch.get_rng_state(), before)
    assert utility == again
    assert not victim.training
    assert utility.difference_norm is not None
    assert utility.difference_norm.mean > 0.1
    assert share(utility.pgd_accuracy) <= share(utility.fgsm_accuracy)
    # Chance is the mean distance from the middle of an 8x8 grid to its rows: two patches. MJP's table is drawn from N(0, 1),
    # whose random rows have 2.3, and 24 epochs take it to 1.3.
    assert utility.position_error is not None
    assert utility.position_error < 1.5


@pytest.fixture
def test_set(tmp_path: Path) -> Path:
    """Six labelled images of noise."""
    random = np.random.default_rng(0)
    path = tmp_path / "made-test.npz"
    np.savez(path, images=random.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8), labels=np.arange(4, 10))
    return path


def evaluated(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["evaluate", "--device", "cpu", *arguments])


def test_the_leaderboard_joins_the_report(test_set: Path, tmp_path: Path) -> None:
    from privbench.analysis.leaderboard import leaderboard

    output = tmp_path / "results"
    answer = evaluated("--defense", "no-pe", "--data", str(test_set), "--output", str(output / "utility"))
    assert answer.exit_code == 0, answer.output
    assert "accuracy, PGD 2/255" in answer.stdout
    assert "position_error: n/a" in answer.stdout
    (path,) = (output / "utility").iterdir()
    utility = UtilityReport.load(path)
    assert utility.images == 6
    where = ["--limit", "1", "--no-download", "--quiet", "--device", "cpu", "--output", str(output / "runs")]
    for defense in ("none", "no-pe"):
        run = CliRunner().invoke(main, ["run", "--attack", "dlg:steps=1,evaluations=1", "--defense", defense, *where])
        assert run.exit_code == 0, run.output
    rows = leaderboard(output).set_index("defense")
    assert rows.loc["no-pe", "utility_accuracy"] == utility.accuracy.mean
    assert rows.loc["no-pe", "utility_corrupted_accuracy"] == utility.mean_corrupted_accuracy
    assert rows.loc[["none"], "utility_accuracy"].isna().all()


def test_a_victim_trained_under_a_defense_reports_it_beside_an_undefended_one_of_the_same_recipe(
    test_set: Path, tmp_path: Path
) -> None:
    from privbench.analysis.leaderboard import leaderboard

    output = tmp_path / "results"
    images = np.random.default_rng(1).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    data = tmp_path / "made"
    data.mkdir()
    np.savez(data / "train.npz", images=images, labels=np.arange(16) % 10)
    shutil.copy(test_set, data / "test.npz")
    for defense in ("none", "sign"):
        common = ["--defense", defense, "--data", str(data), "--device", "cpu"]
        folder = tmp_path / defense
        trained = CliRunner().invoke(main, ["train", *common, "--epochs", "1", "--batch-size", "8", "--output", str(folder)])
        assert trained.exit_code == 0, trained.output
        weights = folder / f"vit_mini_patch4_32.{defense}.safetensors"
        answer = evaluated(*common, "--weights", str(weights), "--measure", "accuracy", "--output", str(output))
        assert answer.exit_code == 0, answer.output
        assert "pgd_accuracy: n/a, not asked for; --measure attacks" in answer.stdout
    reports = {
        utility.defense[0].name: utility for utility in map(UtilityReport.load, output.glob("utility--*")) if utility.training
    }
    assert set(reports) == {"none", "sign"}
    assert reports["sign"].pgd_accuracy is None
    assert reports["sign"].mean_corrupted_accuracy is None
    where = ["--limit", "1", "--no-download", "--quiet", "--device", "cpu", "--output", str(output / "runs")]
    run = CliRunner().invoke(main, ["run", "--attack", "dlg:steps=1,evaluations=1", "--defense", "sign,no-pe", *where])
    assert run.exit_code == 0, run.output
    rows = leaderboard(output).set_index("defense")
    assert rows.loc["sign", "retrained_accuracy"] == reports["sign"].accuracy.mean
    assert rows.loc["sign", "retrained_undefended"] == reports["none"].accuracy.mean
    assert rows.loc["sign", "retrained_epochs"] == 1
    assert rows.loc[["no-pe"], "retrained_accuracy"].isna().all()
    # The attacked victim is another one: its utility report stays empty.
    assert rows.loc[["sign"], "utility_accuracy"].isna().all()


def test_position_rows_are_kept_on_request(test_set: Path, tmp_path: Path) -> None:
    common = ["--data", str(test_set), "--measure", "positions", "--keep-positions", "--output", str(tmp_path / "out")]
    answer = evaluated(*common)
    assert answer.exit_code == 0, answer.output
    (kept,) = (tmp_path / "out").glob("positions--none--*.safetensors")
    (path,) = (tmp_path / "out").glob("utility--none--*.json")
    assert answer.stdout.splitlines()[-1] == str(kept)
    table = PositionTable.of_state("kept", load_file(kept))
    assert table.grid == (8, 8)
    assert UtilityReport.load(path).position_error == pytest.approx(position_points([table])["mean"].item(), abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--keep-positions", "--defense", "no-pe"], "no learned position embedding whose rows could be kept"),
        (["--measure", "speed"], "--measure speed is not known; accepted: all, accuracy, jigsaw"),
        (["--weights", "random"], "--weights random has no utility report"),
        (["--measure", "all,jigsaw"], "--measure all,jigsaw names all and more; write all by itself"),
        (["--measure", ""], "an empty entry in --measure ''; accepted: all, accuracy"),
        (["--epsilon", "0"], "0<x<=1"),
        (["--epsilon", "nan"], "nan is not a finite number; accepted: 0<x<=1"),
        (["--epsilon", "inf"], "0<x<=1"),
        (["--seed", "99999999999999999999999999"], "0<=x<=2147483647"),
        (["--limit", "13"], "--limit 13 is larger than the data: made-test.npz (test) has 6 images; use 6 or less"),
        (["--output", "/proc/x"], "cannot write to /proc/x: "),
        (
            ["--weights", "missing"],
            "there is no weights file missing; accepted: embedded, pretrained, a file, or for an attack random",
        ),
        (["--data", "photos"], "the labels of photos are assigned and do not name what the images show"),
        (["--defense", "mixup", "--limit", "1"], "needs 2 or more, and there are 1; raise --limit"),
        (["--model", "cnn_mini_32", "--defense", "mjp"], "defense mjp needs a vision transformer"),
        (["--model", "cnn_mini_32", "--defense", "naive-shuffle"], "defense naive-shuffle needs a vision transformer"),
        (["--jigsaw", "nothing"], "unknown defense 'nothing'"),
        *[
            (["--jigsaw", name], f"--jigsaw {name} leaves every patch in its place or mixes images")
            for name in (
                "none",
                "dpsgd",
                "precode",
                "mixup",
                "pixel-shuffle",
                "stochastic-layers",
                "mjp:mask_ratio=0",
                "mjp+mixup",
            )
        ],
    ],
)
def test_what_has_no_report_is_refused_in_one_line(arguments: list[str], words: str, test_set: Path, tmp_path: Path) -> None:
    answer = evaluated("--data", str(test_set), "--output", str(tmp_path / "out"), *arguments)
    assert answer.exit_code == 2
    assert words in answer.output
    assert answer.stdout == ""
    assert len(answer.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["naive-shuffle", "mjp:mask_ratio=0.03", "mjp+gradient-noise"])
def test_what_moves_or_masks_patches_is_a_jigsaw_however_seldom(text: str) -> None:
    spec = resolve_victim("vit_mini_patch4_32", "embedded", build_defense(resolve_defense("none")))
    none = resolve_defense("none")
    victim = load_victim(spec, build_defense(none), generator=torch.Generator())
    options = MeasureOptions(build_defense(resolve_defense(text)), text, measures=frozenset({"jigsaw"}))
    images, labels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1])
    utility = measure_utility(victim, spec, build_defense(none), none, images, labels, dataset="made", options=options)
    assert utility.jigsaw == text
    assert utility.consistency is not None


def test_images_of_other_classes_than_the_victim_learnt_are_refused(tmp_path: Path) -> None:
    def folder(name: str, classes: tuple[str, ...]) -> Path:
        for one in classes:
            (tmp_path / name / one).mkdir(parents=True)
            Image.new("RGB", (32, 32), "teal").save(tmp_path / name / one / "image.png")
        return tmp_path / name

    def refused(data: Path, words: str) -> None:
        answer = evaluated("--data", str(data), "--measure", "accuracy", "--output", str(tmp_path / "out"))
        assert answer.exit_code == 2
        assert words in answer.stderr
        assert not (tmp_path / "out").exists()

    refused(folder("three", ("cat", "dog", "frog")), "three has 3 classes and the victim 10; choose test images")
    fish = ("tench", "eel", "carp", "cod", "bass", "pike", "ray", "shark", "trout", "hake")
    refused(folder("fish", fish), "fish (bass, ...) is one of cifar10, on which the victim was trained")
    same = folder("same", CIFAR10_CLASSES)
    answer = evaluated("--data", str(same), "--measure", "accuracy", "--output", str(tmp_path / "out"))
    assert answer.exit_code == 0, answer.output
    assert "n = 10 test images of same" in " ".join(answer.stdout.split())


def test_weights_that_are_not_finite_have_no_report(test_set: Path, tmp_path: Path) -> None:
    spec = resolve_victim("vit_mini_patch4_32", "embedded", build_defense(resolve_defense("none")))
    state = load_victim(spec, build_defense(resolve_defense("none")), generator=torch.Generator()).state_dict()
    state["network.head.bias"][3] = torch.nan
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    answer = evaluated("--data", str(test_set), "--weights", str(path), "--output", str(tmp_path / "out"))
    assert answer.exit_code == 2
    assert "the weight network.head.bias of the victim is not finite" in answer.stderr
    assert not (tmp_path / "out").exists()


def test_a_defense_that_came_after_training_is_said_beside_its_report(test_set: Path, tmp_path: Path) -> None:
    none = build_defense(resolve_defense("none"))
    spec = resolve_victim("vit_mini_patch4_32", "embedded", none)
    path = tmp_path / "weights.safetensors"
    save_file(load_victim(spec, none, generator=torch.Generator()).state_dict(), path)
    said = []
    for defense in ("precode", "none"):
        common = ["--data", str(test_set), "--measure", "accuracy", "--output", str(tmp_path / "out")]
        answer = evaluated("--defense", defense, "--weights", str(path), *common)
        assert answer.exit_code == 0, answer.output
        said.append("precode: defense-added-after-training: the victim's weights were trained without" in answer.stdout)
    assert said == [True, False]


def test_images_without_labels_have_no_report(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (32, 32), "teal").save(tmp_path / f"{name}.png")
    answer = evaluated("--data", str(tmp_path), "--output", str(tmp_path / "out"))
    assert answer.exit_code == 2
    assert "have no labels" in answer.output


def test_a_file_that_is_no_report_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "utility--x.json"
    path.write_text("{}")
    with pytest.raises(UserError, match="is not a utility report of schema 1"):
        UtilityReport.load(path)


def test_without_the_extra_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, request: Any) -> None:
    import importlib

    def missing(name: str, original: Callable[[str], Any] = importlib.import_module) -> Any:
        if name == "foolbox":
            raise ImportError("No module named 'foolbox'")
        return original(name)

    victim = Victim(Threshold(), image_size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    monkeypatch.setattr("privbench.training.measure.importlib.import_module", missing)
    with pytest.raises(UserError, match=r"measuring utility needs foolbox .*privbench\[utility\]"):
        measured(victim, torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 0]), 0.1)
