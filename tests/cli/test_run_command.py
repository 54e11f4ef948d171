"""What a user sees and gets from `privbench run`."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from PIL import Image

from privbench.computing.interrupt import Interrupted
from privbench.core import Case, Record


def records(folder: Path) -> list[Record]:
    return [Record.load(path) for path in sorted(folder.rglob("record.json"))]


def test_one_defense(small_run: Callable[..., Result], tmp_path: Path) -> None:
    answer = small_run("--defense", "mjp")
    assert answer.exit_code == 0, answer.stderr
    (record,) = records(tmp_path)
    lines = answer.stdout.splitlines()
    for image in record.images:
        (row,) = [line for line in lines if image.image in line]
        assert f" {image.scores['psnr']:.2f} " in row
        assert f" {image.scores['ssim']:.3f} " in row
        assert f" {image.scores['lpips']:.3f} " in row
        assert f" {image.scores['psnr_patch']:.2f} " in row
    (mean,) = [line for line in lines if "mean, n = 2" in line]
    (bounds,) = [line for line in lines if "95 % interval" in line]
    for name, digits in (("psnr", 2), ("ssim", 3), ("lpips", 3), ("psnr_patch", 2)):
        interval = record.summary[name]
        assert f" {interval.mean:.{digits}f} " in mean
        assert f" [{interval.low:.{digits}f}, {interval.high:.{digits}f}] " in bounds
    folder = Path("out") / record.case.folder
    assert str(folder) in answer.stdout
    assert sorted(path.name for path in (tmp_path / folder).iterdir()) == [
        "case.yaml",
        "comparison.png",
        "reconstructions",
        "record.json",
        "trace.csv",
    ]
    # The progress is no part of the result.
    assert "step 1/4" in answer.stderr
    assert "step" not in answer.stdout


def test_several_defenses_give_one_table_and_one_picture(small_run: Callable[..., Result], tmp_path: Path) -> None:
    answer = small_run("--defense", "none,mjp:mask_ratio=0.5,dal_weight=0")
    assert answer.exit_code == 0, answer.stderr
    found = {record.case.defense_name: record for record in records(tmp_path)}
    assert set(found) == {"none", "mjp"}
    for label, name in (("none", "none"), ("mjp:mask_ratio=0.5,dal_weight=0.0", "mjp")):
        (row,) = [line for line in answer.stdout.splitlines() if line.strip().startswith(f"{label} ")]
        for metric, digits in (("psnr", 2), ("ssim", 3), ("psnr_patch", 2)):
            interval = found[name].summary[metric]
            assert f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]" in row
    (picture,) = (tmp_path / "out").glob("comparison-*.png")
    assert str(picture.relative_to(tmp_path)) in answer.stdout
    with Image.open(picture) as image:
        assert image.width > image.height


def test_the_picture_of_several_defenses_has_its_own_name(small_run: Callable[..., Result], tmp_path: Path) -> None:
    small_run("--defense", "none,no-pe")
    small_run("--defense", "none,no-pe")
    assert len(list((tmp_path / "out").glob("comparison-*.png"))) == 1
    small_run("--defense", "no-pe,none")
    assert len(list((tmp_path / "out").glob("comparison-*.png"))) == 2


def test_what_each_defense_guarantees_is_one_line(small_run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--defense", "none,dpsgd:noise_multiplier=2.0")
    lines = small_run(*arguments).stdout.splitlines()
    assert lines.count("guarantee of none: Promises nothing.") == 1
    (guarantee,) = [line for line in lines if line.startswith("guarantee of dpsgd:noise_multiplier=2.0: ")]
    assert "epsilon 2.166 at delta 1e-05" in guarantee
    # What is finished is shown again where the accountant is not installed.
    monkeypatch.setitem(sys.modules, "opacus.accountants", None)
    assert ": guarantee not stated: defense dpsgd needs the package opacus" in small_run(*arguments).stdout


def test_repeating_a_command_uses_the_record(small_run: Callable[..., Result], tmp_path: Path) -> None:
    first = small_run("--defense", "none")
    stamp = next(tmp_path.rglob("record.json")).stat().st_mtime_ns
    second = small_run("--defense", "none")
    assert second.stdout == first.stdout
    assert "finished before" in second.stderr
    assert next(tmp_path.rglob("record.json")).stat().st_mtime_ns == stamp
    small_run("--defense", "none", "--force")
    assert next(tmp_path.rglob("record.json")).stat().st_mtime_ns != stamp


def test_a_saved_case_can_be_fed_back(
    small_run: Callable[..., Result], privbench: Callable[..., Result], tmp_path: Path
) -> None:
    small_run("--defense", "mjp", "--set", "attack.steps=3", "--seed", "5")
    (first,) = records(tmp_path / "out")
    config = str(tmp_path / "out" / first.case.folder / "case.yaml")
    again = privbench("run", "--config", config, "--output", "again", "--no-download", "--device", "cpu")
    assert again.exit_code == 0, again.stderr
    (second,) = records(tmp_path / "again")
    assert second.case == first.case
    assert [image.scores for image in second.images] == [image.scores for image in first.images]
    other = privbench("run", "--config", config, "--seed", "6", "--output", "again", "--no-download", "--device", "cpu")
    assert other.exit_code == 0, other.stderr
    assert {record.case.seed for record in records(tmp_path / "again")} == {5, 6}


def test_a_dry_run_prints_the_cases_and_writes_nothing(small_run: Callable[..., Result], tmp_path: Path) -> None:
    answer = small_run("--defense", "none,mjp", "--dry-run")
    assert answer.exit_code == 0, answer.stderr
    assert list(tmp_path.iterdir()) == []
    cases = [Case.model_validate(document) for document in yaml.safe_load_all(answer.stdout)]
    assert [case.defense_name for case in cases] == ["none", "mjp"]
    for case in cases:
        assert f"# out/{case.folder} (new)" in answer.stdout
    small_run("--defense", "none")
    again = small_run("--defense", "none,mjp", "--dry-run").stdout
    assert f"# out/{cases[0].folder} (finished)" in again
    assert f"# out/{cases[1].folder} (new)" in again


def test_a_dry_run_of_one_case_is_a_case_file(
    small_run: Callable[..., Result], privbench: Callable[..., Result], tmp_path: Path
) -> None:
    printed = small_run("--defense", "mjp", "--dry-run").stdout
    (tmp_path / "case.yaml").write_text(printed, encoding="utf-8")
    assert privbench("run", "--config", "case.yaml", "--output", "out", "--dry-run").stdout == printed


def test_quiet(small_run: Callable[..., Result]) -> None:
    answer = small_run("--defense", "none", "--quiet")
    assert answer.stderr == ""
    assert small_run("--defense", "none", "--quiet").stderr == ""


def test_how_an_attack_computes_reaches_it_and_the_record(small_run: Callable[..., Result], tmp_path: Path) -> None:
    arguments = ("--attack", "test-group-walk", "--defense", "none", "--limit", "4")
    answer = small_run(*arguments, "--compile", "on", "--precision", "tf32", "--group", "2")
    assert answer.exit_code == 0, answer.stderr
    assert "2 runs, compile on, tf32" in answer.stderr
    assert "none: images 1-2/4, step 1/4" in answer.stderr
    assert "none: images 3-4/4, step 3/4" in answer.stderr
    (record,) = records(tmp_path)
    assert (record.provenance.compile, record.provenance.group) == ("on", 2)
    again = small_run(*arguments, "--force")
    assert "1 runs, compile auto, fp32" in again.stderr
    (other,) = records(tmp_path)
    # It is the same case: how it is computed is no part of it.
    assert (other.case_id, other.provenance.compile, other.provenance.group) == (record.case_id, "auto", 4)


def test_a_trunk_that_is_not_here_leaves_the_column_empty_and_says_what_to_do(
    small_run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch-home"))
    answer = small_run("--defense", "none", "--lpips-net", "vgg")
    assert answer.exit_code == 0, answer.stderr
    assert " n/a " in answer.stdout
    (remark,) = [line for line in answer.stdout.splitlines() if line.startswith("LPIPS: n/a")]
    assert "--lpips-weights FILE" in remark


def test_lpips_from_a_file(small_run: Callable[..., Result], shared_data: Path, tmp_path: Path) -> None:
    weights = shared_data / "weights" / "lpips-trunk-alexnet-features.pth"
    answer = small_run("--defense", "none", "--lpips-weights", str(weights))
    assert answer.exit_code == 0, answer.stderr
    (record,) = records(tmp_path)
    assert f"{record.images[0].scores['lpips']:.3f}" in answer.stdout
    assert "n/a" not in answer.stdout


def test_failures_are_said_below_the_table(small_run: Callable[..., Result]) -> None:
    answer = small_run("--defense", "none", "--attack", "test-failing")
    assert answer.exit_code == 0, answer.stderr
    assert "astronaut (failed)" in answer.stdout
    (line,) = [line for line in answer.stdout.splitlines() if line.startswith("none: the attack failed")]
    assert "2 of 2 images" in line
    assert "FloatingPointError: the first line" in line


def test_an_attack_that_breaks_is_an_error_and_no_row(small_run: Callable[..., Result], tmp_path: Path) -> None:
    answer = small_run("--defense", "none", "--attack", "test-failing:how=runtime", "--quiet")
    assert answer.exit_code == 1
    (line,) = answer.stderr.splitlines()
    assert line.startswith("Error: attack test-failing broke: RuntimeError: shapes differ; this is a fault of its code")
    assert answer.stdout == ""
    assert not records(tmp_path)


def test_a_model_that_embeds_no_pixels_is_refused_before_the_attack(privbench: Callable[..., Result], tmp_path: Path) -> None:
    where = ("--limit", "1", "--output", "out", "--no-download", "--device", "cpu", "--defense", "none", "--weights", "random")
    hybrid = ("--model", "vit_tiny_r_s16_p8_224", "--image-size", "32", "--num-classes", "10", "--data", "photos")
    answer = privbench("run", "--attack", "closed-form", *hybrid, *where)
    assert answer.exit_code == 2, answer.output
    assert "cuts the image itself into patches" in answer.stderr
    assert "\n" not in answer.stderr.strip()
    assert not list(tmp_path.rglob("record.json"))


@pytest.mark.parametrize(
    ("stop", "force", "code"), [(Interrupted(2), False, 130), (Interrupted(15), True, 143), (KeyboardInterrupt(), False, 130)]
)
def test_an_interruption_says_how_to_continue(
    stop: BaseException, force: bool, code: int, small_run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **keywords: object) -> None:
        raise stop

    monkeypatch.setattr("privbench.runner.series.run", interrupted)
    answer = small_run("--defense", "none", *(["--force"] if force else []))
    assert answer.exit_code == code
    (line,) = answer.stderr.splitlines()
    assert line.startswith("Interrupted: what is done is kept in out; repeat the command")
    assert ("without --force" in line) == force


def test_tables_are_not_cut_where_there_is_no_terminal(
    small_run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    answer = small_run("--defense", "none,mjp")
    (row,) = [line for line in answer.stdout.splitlines() if line.strip().startswith("mjp ")]
    assert len(re.findall(r"\d \[.*?\]", row)) == 4


def test_a_metric_without_a_value_is_never_nan(small_run: Callable[..., Result], tmp_path: Path) -> None:
    answer = small_run("--defense", "none,no-pe")
    for text in (answer.stdout, *(path.read_text() for path in tmp_path.rglob("record.json"))):
        assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_an_ensemble_shows_who_won_and_what_was_not_run(privbench: Callable[..., Result], tmp_path: Path) -> None:
    result = privbench(
        "run", "--attack", "fast", "--defense", "none", "--limit", "1", "--no-download", "--device", "cpu", "--output", "out"
    )
    assert result.exit_code == 0, result.output
    assert "won by" in result.stdout
    assert "closed-form (unaware)" in result.stdout
    assert "april (unaware) not run: attack april does not apply" in result.stdout
    assert "nothing left" in result.stdout
    assert "not run: None" not in result.stdout
    (folder,) = (tmp_path / "out").iterdir()
    assert f"{Path('out') / folder.name}: record.json, case.yaml, members/" in result.stdout
    assert (folder / "comparison.png").is_file()
