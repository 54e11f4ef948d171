"""Comparisons find the baseline on the same images, however many baselines there are."""

import shutil
from pathlib import Path

import pytest

import privbench
from privbench.analysis.compare import compare_records, comparison_rows, setting_notes
from privbench.core import ComponentSpec, Record
from privbench.core.local_training import LocalTraining
from privbench.scoring import holm
from privbench.store.layout import find_records
from privbench.store.places import local_folder

REFERENCE = local_folder(Path(__file__).parents[2] / "results" / "reference.jsonl.gz")


def test_a_baseline_on_other_images_hides_none_on_the_same_ones() -> None:
    rest = _matched()
    (none,) = [record for record in rest if record.case.defense_name == "none"]
    other = _changed(none, "data", indices=tuple(range(40, 48)))
    images = tuple(image.model_copy(update={"image": f"test-{40 + place:05d}"}) for place, image in enumerate(other.images))
    other = other.model_copy(update={"images": images})
    expected = compare_records(rest, metric="psnr", baseline="none")
    assert {one.record.case.defense_name for one in expected} == {"mjp", "naive-shuffle", "no-pe"}
    for order in ([other, *rest], [*rest, other]):
        found = compare_records(order, metric="psnr", baseline="none")
        assert [(one.record.case_id, one.difference) for one in found] == [
            (one.record.case_id, one.difference) for one in expected
        ]
        assert all(one.baseline.case.data.indices == one.record.case.data.indices for one in found)


def test_without_a_baseline_nothing_compares() -> None:
    records = [Record.load(path) for path in sorted(REFERENCE.glob("mjp--*/record.json"))]
    assert compare_records(records, metric="psnr", baseline="none") == []


def test_a_case_that_lies_in_two_folders_is_compared_once(tmp_path: Path) -> None:
    for place in ("a", "b"):
        for name in ("none", "mjp"):
            for path in REFERENCE.glob(f"{name}--adjoint-matching--unaware--*"):
                shutil.copytree(path, tmp_path / place / path.name)
    once, twice = (privbench.load_results(folder).comparisons() for folder in (tmp_path / "a", tmp_path))
    assert [one.record.case_id for one in twice] == [one.record.case_id for one in once]
    assert [one.difference for one in twice] == [one.difference for one in once]
    assert len(once) >= 1


def test_p_values_are_corrected_for_their_number() -> None:
    # Holm's own scheme by hand: 0.01 * 4, 0.02 * 3, then max(0.06, 0.03 * 2), and 0.5.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    records = [Record.load(path) for path in find_records(REFERENCE)]
    found = compare_records(records, metric="psnr", baseline="none")
    assert len(found) > 2
    assert holm([one.difference.p for one in found]) == [one.p_corrected for one in found]
    smallest = min(found, key=lambda one: one.difference.p)
    assert smallest.p_corrected == pytest.approx(min(1.0, smallest.difference.p * len(found)))


def _matched() -> list[Record]:
    """Four defenses before the default attack, without its control."""
    records = [Record.load(path) for path in REFERENCE.glob("*--adjoint-matching--unaware--*/record.json")]
    return [record for record in records if record.case.attack.parameters["gradient"]]


def _changed(record: Record, part: str, **fields: object) -> Record:
    """The record of another case, which differs in fields of one part of it; for the case itself `part` is empty."""
    case = record.case.model_copy(update={part: getattr(record.case, part).model_copy(update=fields)} if part else fields)
    return record.model_copy(update={"case": case, "case_id": case.identity})


def _pair() -> tuple[Record, Record]:
    """Records of no defense and of MJP by one attack on the same images."""
    found = compare_records(_matched(), metric="psnr", baseline="none")
    return next((one.baseline, one.record) for one in found if one.record.case.defense_name == "mjp")


@pytest.mark.parametrize(
    ("part", "fields"),
    [
        ("victim", {"weights": "random", "weights_sha256": None}),
        ("", {"local": LocalTraining(steps=5)}),
        ("", {"server": ComponentSpec(name="imprint")}),
    ],
)
def test_a_baseline_of_another_victim_client_or_server_is_none(part: str, fields: dict[str, object]) -> None:
    none, mjp = _pair()
    other = _changed(none, part, **fields)
    assert compare_records([other, mjp], metric="psnr", baseline="none") == []
    for order in ([none, other, mjp], [other, none, mjp]):
        (found,) = compare_records(order, metric="psnr", baseline="none")
        assert found.baseline is none


def test_victims_trained_by_one_recipe_compare_by_the_names_of_their_files() -> None:
    none, mjp = (
        _changed(record, "victim", weights=f"runs/vit_mini_patch4_32.{name}.safetensors")
        for record, name in zip(_pair(), ("none", "mjp"), strict=True)
    )
    (found,) = compare_records([none, mjp], metric="psnr", baseline="none")
    assert (found.baseline, found.record) == (none, mjp)
    assert comparison_rows([found])["weights"].tolist() == ["vit_mini_patch4_32.mjp.safetensors"]


def test_rows_of_one_name_say_what_sets_them_apart() -> None:
    none, mjp = _pair()
    first = compare_records([none, mjp], metric="psnr", baseline="none")
    second = compare_records([_changed(one, "", seed=7) for one in (none, mjp)], metric="psnr", baseline="none")
    assert setting_notes([]) == []
    assert setting_notes(first) == [""]
    assert setting_notes([*first, *second, *first]) == ["", "seed 7", ""]
