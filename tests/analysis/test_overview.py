"""The tables of a paper: what stands in which row and cell, and that the same records give the same page."""

from pathlib import Path
from typing import Any

import pytest

from privbench.analysis.overview import overview, write_overview
from privbench.core import ComponentSpec, LocalTraining, Record, UserError, resolve_defense
from privbench.store.files import atomic_write
from privbench.store.places import local_folder
from tests.analysis.records import scored

FRONT = local_folder(Path(__file__).parents[2] / "results" / "front.jsonl.gz")


def store(folder: Path, record: Record) -> None:
    atomic_write(folder / record.case.folder / "record.json", record.to_json().encode())


def variant(template: Record, psnr: float, *, defense: str = "none", weights: str = "random", **fields: Any) -> Record:
    """A record like the template with another mean PSNR, defense, victim and whatever else a case has."""
    threat: dict[str, Any] = {key: fields.pop(key) for key in ("adversary", "labels") if key in fields}
    case = template.case.model_copy(
        update={
            "defense": resolve_defense(defense),
            "victim": template.case.victim.model_copy(update={"weights": weights}),
            "threat_model": template.case.threat_model.model_copy(update=threat),
            **fields,
        }
    )
    found = scored(template, "psnr", [psnr - 1, psnr + 1])
    return found.model_copy(update={"case": case, "case_id": case.identity})


def tables(page: str) -> list[list[dict[str, str]]]:
    """Every table of a page, as rows by heading."""
    found = []
    for part in page.split("\n\n")[1::2]:
        lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in part.splitlines()]
        found.append([dict(zip(lines[0], line, strict=True)) for line in lines[2:]])
    return found


def test_updates_of_different_kinds_stand_below_each_other_and_say_so(template: Record, tmp_path: Path) -> None:
    imprint = ComponentSpec(name="imprint", parameters={"bins": 8})
    for change in ({}, {"local": LocalTraining(steps=5)}, {"trains": "blocks.0.*"}, {"server": imprint}):
        store(tmp_path / "runs", variant(template, 20.0, **change))
    (rows,) = tables(overview(tmp_path / "runs"))
    client = ", client trains by sgd, lr 0.01, 5 steps, training known"
    ends = ["", ", server `imprint:bins=8`", ", sent: `blocks.0.*`", client]
    assert [row["update"] for row in rows] == [f"batches of 1{end}" for end in ends]


def test_defenses_stand_by_worst_case_with_each_adversary_below(template: Record, tmp_path: Path) -> None:
    for record in (
        variant(template, 30.0),
        variant(template, 11.0, defense="mjp:mask_ratio=0.5"),
        variant(template, 22.5, defense="mjp:mask_ratio=0.5", adversary="aware"),
        variant(template, 25.0, defense="mjp"),
        variant(template, 9.0, defense="mjp", seed=7),
        variant(template, 12.0, weights="checkpoints/other.safetensors"),
    ):
        store(tmp_path / "runs", record)
    page = overview(tmp_path / "runs")
    (rows,) = tables(page)
    assert [(row["defense"], row["adversary"], row["highest leakage"], row["`test-walk`"]) for row in rows] == [
        ("`none` on `other.safetensors`", "unaware", "12.0", "12.0 [11.0, 13.0]"),
        ("`mjp:mask_ratio=0.5`", "unaware", "11.0", "11.0 [10.0, 12.0]"),
        ("`mjp:mask_ratio=0.5`", "aware", "22.5", "22.5 [21.5, 23.5]"),
        # Both settings have the parameter in which the rows differ, the default one too; the leakier seed speaks.
        ("`mjp:mask_ratio=0.1`", "unaware", "25.0", "25.0 [24.0, 26.0]"),
        ("`none`", "unaware", "30.0", "30.0 [29.0, 31.0]"),
    ]
    assert list(rows[0])[2:6] == ["highest leakage", "LPIPS", "PSNR-patch", "explained"]
    # Nobody measured this.
    assert "trained under it / without (epochs)" not in rows[0]
    assert page.startswith(
        f"`{template.case.victim.model.name}`, photos (test), 2 images (0 and 1), batches of 1, "
        "labels recovered, model in eval mode"
    )
    assert "Weights: `random` where no others are named." in page


def test_the_report_of_training_is_that_of_the_rows_own_victim() -> None:
    found = {row["defense"].strip("`"): row for table in tables(overview(FRONT)) for row in table}
    trained = "trained under it / without (epochs)"
    for defense in ("none", "no-pe", "naive-shuffle", "mjp:mask_ratio=0.1"):
        row = found[defense]
        assert row[trained] == f"{row['accuracy']} / {found['none']['accuracy']} (24)"
    # What was attacked here is the undefended victim; the price is that of two others.
    assert found["sign:magnitude=mean"]["accuracy"] == found["none"]["accuracy"]
    assert found["sign:magnitude=mean"][trained].endswith(" (4)")


def test_gradvit_stands_before_other_optimisation_and_closed_forms_last(template: Record, tmp_path: Path) -> None:
    for name, steps in (("subspace", 0), ("gradvit", 9), ("adjoint-matching", 9), ("closed-form", 0)):
        record = variant(template, 20.0, attack=ComponentSpec(name=name, parameters={}))
        images = tuple(image.model_copy(update={"steps": steps}) for image in record.images)
        store(tmp_path / "runs", record.model_copy(update={"images": images}))
    (rows,) = tables(overview(tmp_path / "runs"))
    assert [head for head in rows[0] if head.startswith("`")] == [
        "`gradvit`", "`adjoint-matching`", "`closed-form`", "`subspace`",
    ]  # fmt: skip


def test_an_image_far_off_does_not_hide_what_the_others_explain(template: Record, tmp_path: Path) -> None:
    record = variant(template, 20.0)
    shares = [-8000.0, 0.5]
    images = tuple(image.model_copy(update={"explained": share}) for image, share in zip(record.images, shares, strict=True))
    store(tmp_path / "runs", record.model_copy(update={"images": images}))
    (rows,) = tables(overview(tmp_path / "runs"))
    assert rows[0]["explained"] == "25%"


def test_what_does_not_compare_stands_in_tables_of_its_own(template: Record, tmp_path: Path) -> None:
    for record in (variant(template, 30.0), variant(template, 20.0, labels="known"), variant(template, 10.0, batch_size=2)):
        store(tmp_path / "runs", record)
    known, recovered = tables(overview(tmp_path / "runs"))
    assert [row["highest leakage"] for row in known] == ["20.0"]
    assert [(row["update"], row["highest leakage"]) for row in recovered] == [
        ("batches of 1", "30.0"),
        ("batches of 2", "10.0"),
    ]
    assert "where no others" not in overview(tmp_path / "runs")


def test_the_same_records_give_the_same_bytes_wherever_they_lie(template: Record, tmp_path: Path) -> None:
    records = [variant(template, 30.0), variant(template, 11.0, defense="naive-shuffle")]
    for place, order in (("a", records), ("b/c", records[::-1])):
        for record in order:
            store(tmp_path / place, record)
        assert write_overview(tmp_path / place, tmp_path / f"{place}.md") == 2
    assert (tmp_path / "a.md").read_bytes() == (tmp_path / "b" / "c.md").read_bytes()


def test_the_target_must_be_a_file(template: Record, tmp_path: Path) -> None:
    store(tmp_path / "runs", template)
    with pytest.raises(UserError, match="it is a folder"):
        write_overview(tmp_path / "runs", tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        write_overview(tmp_path / "nothing", tmp_path / "page.md")
