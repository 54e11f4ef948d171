"""Image sizes side by side: which setting speaks for a size, and what a row takes from it."""

from pathlib import Path
from typing import Any

from privbench.analysis.side_by_side import side_by_side
from privbench.core import Record, resolve_defense
from privbench.store.files import atomic_write
from tests.analysis.records import scored


def kept(folder: Path, template: Record, psnr: float, defense: str = "none", *, size: int = 32, **fields: Any) -> None:
    victim = template.case.victim
    model = victim.model.model_copy(update={"image_size": size})
    adversary = fields.pop("adversary", "unaware")
    threat = template.case.threat_model.model_copy(update={"adversary": adversary})
    change = {
        "defense": resolve_defense(defense),
        "victim": victim.model_copy(update={"model": model}),
        "threat_model": threat,
        **fields,
    }
    case = template.case.model_copy(update=change)
    record = scored(template, "psnr", [psnr - 1, psnr + 1]).model_copy(update={"case": case, "case_id": case.identity})
    atomic_write(folder / record.case.folder / "record.json", record.to_json().encode())


def rows(page: str) -> list[list[str]]:
    lines = page.splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_defense_that_was_measured_at_two_sizes_has_a_row_for_each_adversary(template: Record, tmp_path: Path) -> None:
    for size, lower in ((32, 0), (64, 10)):
        folder = tmp_path / str(size)
        kept(folder, template, 40.0 - lower, size=size)
        kept(folder, template, 30.0 - lower, "mjp", size=size)
        kept(folder, template, 35.0 - lower, "mjp", size=size, seed=3)
        kept(folder, template, 38.0 - lower, "mjp", size=size, adversary="aware")
        # An update of two images is another question.
        kept(folder, template, 99.0, size=size, batch_size=2)
    kept(tmp_path / "32", template, 12.0, "sign")
    page = side_by_side([tmp_path / "32", tmp_path / "64"])
    head, _, *found = rows(page)
    assert [cell.split(",")[0] for cell in head] == ["defense", "adversary", "PSNR", "LPIPS", "PSNR", "LPIPS"]
    assert [(row[0], row[1], row[2], row[4]) for row in found] == [
        ("`mjp`", "unaware", "35.0", "25.0"),
        ("`mjp`", "aware", "38.0", "28.0"),
        ("`none`", "unaware", "40.0", "30.0"),
    ]


def test_of_several_models_of_one_size_the_one_with_most_defenses_speaks(template: Record, tmp_path: Path) -> None:
    other = template.case.victim.model_copy(update={"model": template.case.victim.model.model_copy(update={"name": "other"})})
    for defense in ("none", "sign"):
        kept(tmp_path / "a", template, 20.0, defense)
        kept(tmp_path / "a", template, 21.0, defense, size=64)
    kept(tmp_path / "b", template, 50.0, victim=other)
    assert [row[2] for row in rows(side_by_side([tmp_path / "a", tmp_path / "b"]))[2:]] == ["20.0", "20.0"]
