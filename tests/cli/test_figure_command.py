"""`privbench figure`: every name is drawn from records, chosen by their own fields, or refused in one line."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from attacks.relocation_matching import RelocationMatching
from privbench.analysis.cases import case_table, utility_table
from privbench.core import Record
from privbench.plots.registry import FIGURES
from privbench.store.places import local_folder
from tests.analysis.records import scored

RESULTS = Path(__file__).parents[2] / "results"
REFERENCE = local_folder(RESULTS / "reference.jsonl.gz")
CLAIMS = local_folder(RESULTS / "claims.jsonl.gz")
Privbench = Callable[..., Result]


def stored(folder: Path, psnr: float, **changes: Any) -> None:
    """A record of relocation-matching, no defense, changed; `attack`, `victim` and the like are changes within that part."""
    base = relocated()
    case = base.case.model_dump()
    for part, values in changes.items():
        case[part] = {**case[part], **values} if isinstance(values, dict) else values
    parsed = type(base.case).model_validate(case)
    values = [psnr - 1, psnr + 1] * (len(base.images) // 2)
    base = scored(scored(base, "psnr", values), "psnr_patch", values)
    summary = {name: base.summary[name] for name in ("psnr", "psnr_patch")}
    record = base.model_copy(update={"case": parsed, "case_id": parsed.identity, "summary": summary, "files": {}})
    (folder / parsed.folder).mkdir(parents=True)
    (folder / parsed.folder / "record.json").write_text(record.to_json(), encoding="utf-8")


def relocated() -> Record:
    """The baseline of the ablations; the schedule's has more images."""
    found = [Record.load(path) for path in CLAIMS.glob("none--relocation-matching--*--vit_mini_patch4_32--*/record.json")]
    defaults = {**RelocationMatching().parameters(), "steps": 600}
    baselines = [
        one
        for one in found
        if one.case.attack.parameters.items() <= defaults.items()
        and one.case.batch_size == 1
        and one.case.victim.weights == "embedded"
    ]
    return min(baselines, key=lambda one: len(one.images))


def parameters(**changes: Any) -> dict[str, Any]:
    """The attack's parameters at what the baseline has, changed."""
    return {"parameters": {**relocated().case.attack.parameters, **changes}}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Small studies of each kind, and the reference's utility reports."""
    folder = tmp_path / "results"
    stored(folder, 24)
    stored(folder, 20, attack=parameters(relocation=False))
    stored(folder, 15, attack=parameters(layers="embedding"))
    stored(folder, 12, batch_size=2)
    stored(folder, 11, threat_model={"model_mode": "train"})
    stored(folder, 10, victim={"weights": "random", "weights_sha256": None})
    stored(folder, 9, victim={"model": {"name": "cnn_mini_32", "num_classes": 10, "image_size": 32}})
    for ratio in (0.0, 0.5, 1.0):
        stored(folder, 20 - 8 * ratio, defense=[{"name": "mjp", "parameters": {"mask_ratio": ratio}}])
    for path in REFERENCE.glob("utility--*.json"):
        shutil.copy(path, folder / path.name)
    return folder


@pytest.mark.parametrize("name", sorted(FIGURES.keys() - {"gallery", "trajectories", "positions", "evolution"}))
def test_figures_are_drawn_from_records_alone(name: str, results: Path, privbench: Privbench) -> None:
    answer = privbench("figure", name, results, "-o", "a.pdf")
    assert answer.exit_code == 0, answer.output
    assert f"{name} -> a.pdf" in answer.output
    assert Path("a.pdf").read_bytes().startswith(b"%PDF")


def test_trajectories_and_galleries_use_what_lies_beside_the_records(privbench: Privbench) -> None:
    answer = privbench("figure", "trajectories", REFERENCE, "-o", "a.png", "--where", "dataset=cifar10")
    assert answer.exit_code == 0, answer.output
    answer = privbench(
        "figure", "gallery", REFERENCE, "-o", "b.png", "--where", "dataset=cifar10", "--where", "attack=adjoint-matching"
    )
    assert answer.exit_code == 0, answer.output
    # CIFAR-10 is not at hand in an empty folder, and private images are not stored.
    assert "originals and client's views are left out: " in answer.output
    assert Path("b.png").stat().st_size > 20_000


def test_positions_need_weights_and_no_records(privbench: Privbench) -> None:
    answer = privbench("figure", "positions", "-o", "a.pdf")
    assert answer.exit_code == 0, answer.output
    assert "none (embedded): error 0." in answer.output
    assert "mjp (embedded): error 1." in answer.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gallery", "FOLDER"), "no record has its reconstructions beside it; `privbench run"),
        (("trajectories", "FOLDER"), "no record has a loss trace"),
        (("ablation", "FOLDER", "--where", "colour=red"), "'colour=red' chooses nothing; accepted: COLUMN=VALUE"),
        (("ablation", "FOLDER", "--where", "adversary=red"), "no record has adversary 'red'; accepted: unaware"),
        (("ablation", "FOLDER", "--metric", "vmaf"), "no case has the metric 'vmaf'; accepted: "),
        (("mask-ratio", "FOLDER", "--where", "defense=none"), "no record has defense mjp"),
        (("ablation",), "give their folder or pack"),
        (("front", "FOLDER", "--weights", "x"), "figure front takes no --weights; accepted by: positions"),
        (("front", "FOLDER", "--images", "2"), "figure front takes no --images; accepted by: gallery"),
        (("gallery", "FOLDER", "--metric", "psnr"), "figure gallery takes no --metric; accepted by: "),
        (("positions", "--weights", "none.safetensors"), "there is no weights file none.safetensors"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(arguments: tuple[str, ...], words: str, results: Path, privbench: Privbench) -> None:
    answer = privbench("figure", *(results if word == "FOLDER" else word for word in arguments), "-o", "a.png")
    assert answer.exit_code == 2
    assert words in answer.output
    assert answer.output.count("\n") == 1
    assert not Path("a.png").exists()


def test_tables_hold_each_case_once_and_the_fields_that_figures_select_by(results: Path) -> None:
    shutil.copytree(results, results / "again")
    rows = case_table(results)
    assert len(rows) == 10
    assert sorted(rows["mask_ratio"].dropna()) == [0, 0.5, 1]
    assert set(rows["image_size"]) == {32}
    assert set(rows["images"]) == {",".join(map(str, range(16, 32)))}
    assert [fields["layers"] for fields in rows["attack_fields"]].count("embedding") == 1


def test_reports_stand_at_the_mask_ratio_of_their_jigsaw(results: Path) -> None:
    reports = utility_table(results)
    masked = reports[reports["victim"] == "mjp"]
    found = list(zip(masked["measure"], masked["mask_ratio"], masked["mean"], strict=True))
    assert found == [("accuracy", 0.0, 0.776), ("accuracy", 0.1, 0.75), ("accuracy", 0.5, 0.72), ("consistency", 0.5, 0.832)]
