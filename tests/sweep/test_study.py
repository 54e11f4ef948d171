"""Study files: axes to cases, each once, and one line for whatever is wrong."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from privbench.core import UserError
from privbench.data import ImageSet
from privbench.resolving.resolve import resolve_cases
from privbench.sweep.study import Study, read_study

BASE = "settings: {attack: test-walk, model: test-vit, weights: random, limit: 1}\n"


def study(tmp_path: Path, text: str, **overrides: str | int) -> Study:
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return read_study(path, overrides)


def test_every_combination_of_the_axes_is_a_case_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = study(tmp_path, f"name: s\n{BASE}grid: {{defense: [none, mjp], seed: [0, 1]}}\n")
    assert [(case.defense_name, case.seed) for case in found.cases] == [("none", 0), ("none", 1), ("mjp", 0), ("mjp", 1)]


def test_a_single_value_is_an_axis_of_one_and_parameters_can_be_axes(tmp_path: Path) -> None:
    text = f"name: s\n{BASE}grid: {{defense: mjp, defense.mask_ratio: [0.1, 0.5], attack.steps: [2, 3]}}\n"
    found = study(tmp_path, text)
    ratios = [(case.defense[0].parameters["mask_ratio"], case.attack.parameters["steps"]) for case in found.cases]
    assert ratios == [(0.1, 2), (0.1, 3), (0.5, 2), (0.5, 3)]


def test_several_grids_are_put_together_and_equal_cases_are_one(tmp_path: Path) -> None:
    grids = "grid:\n  - {defense: [none, mjp]}\n  - {defense: ['mjp:mask_ratio=0.1', no-pe]}\n"
    found = study(tmp_path, f"name: s\n{BASE}{grids}")
    assert found.combinations == 4
    assert [case.defense_name for case in found.cases] == ["none", "mjp", "no-pe"]  # 0.1 is mjp's default


def test_an_override_goes_before_settings_and_axes(tmp_path: Path) -> None:
    found = study(tmp_path, f"name: s\n{BASE}grid: {{seed: [0, 1, 2], defense: none}}\n", seed=7, limit=2)
    (case,) = found.cases
    assert case.seed == 7
    assert len(case.data.indices) == 2


def test_a_smaller_limit_leaves_every_case_a_whole_batch(tmp_path: Path) -> None:
    found = study(tmp_path, f"name: s\n{BASE}grid: {{batch_size: [1, 4], limit: 8, defense: none}}\n", limit=2)
    assert [(case.batch_size, len(case.data.indices)) for case in found.cases] == [(1, 2), (4, 4)]


def test_shards_are_disjoint_and_make_up_the_study(tmp_path: Path) -> None:
    found = study(tmp_path, f"name: s\n{BASE}grid: {{seed: [0, 1, 2, 3, 4], defense: none}}\n")
    shards = [found.shard(part, 2).cases for part in (1, 2)]
    assert sorted(case.seed for shard in shards for case in shard) == [0, 1, 2, 3, 4]
    assert {case.identity for case in shards[0]}.isdisjoint(case.identity for case in shards[1])


def test_the_identity_follows_from_the_cases_alone(tmp_path: Path) -> None:
    one = study(tmp_path, f"name: s\n{BASE}grid: {{seed: [0, 1], defense: none}}\n")
    same = study(tmp_path, f"name: other\n{BASE}grid: [{{seed: 0, defense: none}}, {{seed: 1, defense: none}}]\n")
    other = study(tmp_path, f"name: s\n{BASE}grid: {{seed: [0, 2], defense: none}}\n")
    assert one.identity == same.identity != other.identity


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n- b\n", ["is no study", "name, settings, grid"]),
        ("name: [", ["cannot read the study"]),
        ("name: s\ngrid: {defense: none}\nextra: 1\n", ["extra"]),
        ("name: a/b\ngrid: {defense: none}\n", ["name", "a/b"]),
        ("name: s\ngrid: []\n", ["grid"]),
        ("name: s\ngrid: {defence: none}\n", ["unknown setting 'defence'", "did you mean defense"]),
        ("name: s\ngrid: {defense: none, attack.stepz: 3}\n", ["the case of defense: none, attack.stepz: 3", "stepz"]),
        ("name: s\ngrid: {defense: none, batch_size: two}\n", ["batch_size", "'two'", "whole number"]),
        ("name: s\ngrid: {a: &a [1], defense: none}\n", ["unknown setting 'a'"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        study(tmp_path, text)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_missing_file_and_too_many_combinations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the study"):
        read_study(tmp_path / "absent.yaml")
    axis = str(list(range(400)))
    with pytest.raises(UserError, match="more than 100,000 combinations"):
        study(tmp_path, f"name: s\n{BASE}grid: {{seed: {axis}, limit: {axis}, defense: none}}\n")


def test_what_cases_have_in_common_is_resolved_once_and_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[tuple[int, ...]] = []
    whole = ImageSet.fingerprint

    def noting(images: ImageSet, indices: Sequence[int], size: int) -> str:
        hashed.append(tuple(indices))
        return whole(images, indices, size)

    monkeypatch.setattr(ImageSet, "fingerprint", noting)
    grid = "{defense.mask_ratio: [0.1], attack.steps: [2, 3], limit: [1, 2], seed: [0, 1, 2]}"
    found = study(
        tmp_path, f"name: s\nsettings: {{attack: test-walk, model: test-vit, weights: random, defense: mjp}}\ngrid: {grid}\n"
    )
    assert len(found.cases) == 12
    assert sorted(hashed) == [(0,), (0, 1)]
    for case in found.cases:
        steps, ratio = case.attack.parameters["steps"], case.defense[0].parameters["mask_ratio"]
        alone = resolve_cases(
            {
                "attack": f"test-walk:steps={steps}",
                "defense": f"mjp:mask_ratio={ratio}",
                "model": "test-vit",
                "weights": "random",
                "limit": len(case.data.indices),
                "seed": case.seed,
            }
        )
        assert alone == [case]


def test_an_axis_without_a_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"study\.yaml: grid\.0\.defense: .*at least 1 item"):
        study(tmp_path, f"name: s\n{BASE}grid: {{defense: []}}\n")
