"""The leaderboard says what the records say, in a fixed order, and repeats byte for byte."""

import csv
import io
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from privbench.analysis.leaderboard import leaderboard, leaderboard_csv, write_leaderboard
from privbench.analysis.sok import sok_model
from privbench.core import (
    Case,
    ComponentSpec,
    Interval,
    LocalTraining,
    Record,
    Training,
    UserError,
    UtilityReport,
    resolve_defense,
)
from privbench.store.files import atomic_write
from tests.analysis.records import scored


def variant(template: Record, psnr: float, seed: int, **threat: str) -> Record:
    """A record like the template with another mean PSNR, seed and threat model."""
    case = template.case.model_copy(update={"seed": seed, "threat_model": template.case.threat_model.model_copy(update=threat)})
    found = scored(template, "psnr", [psnr - 1, psnr + 1])
    return found.model_copy(update={"case": case, "case_id": case.identity})


def store(folder: Path, *records: Record) -> None:
    for record in records:
        atomic_write(folder / record.case.folder / "record.json", record.to_json().encode())


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(leaderboard_csv(leaderboard(folder)))))


def test_best_defense_first_within_each_group(template: Record, tmp_path: Path) -> None:
    store(
        tmp_path / "runs",
        variant(template, 20.0, 1),
        variant(template, 10.0, 2),
        variant(template, 15.0, 3, adversary="oracle"),
        variant(template, 12.0, 4, adversary="aware"),
        variant(template, 10.0, 5),
        variant(template, 30.0, 6, adversary="aware"),
    )
    rows = table(tmp_path / "runs")
    assert [(row["adversary"], row["psnr_mean"], row["rank"]) for row in rows] == [
        ("aware", "12.0", "1"),
        ("aware", "30.0", "2"),
        ("oracle", "15.0", "1"),
        ("unaware", "10.0", "1"),
        ("unaware", "10.0", "1"),
        ("unaware", "20.0", "3"),
    ]
    assert rows[3]["case"] < rows[4]["case"]


def test_ranks_count_among_updates_of_one_kind(template: Record, tmp_path: Path) -> None:
    others: list[dict[str, Any]] = [
        {"batch_size": 2},
        {"local": LocalTraining(steps=5)},
        {"server": ComponentSpec(name="imprint")},
        {"threat_model": template.case.threat_model.model_copy(update={"labels": "known"})},
    ]
    records = [variant(template, 10.0, 1), variant(template, 20.0, 2)]
    for number, change in enumerate(others):
        case = template.case.model_copy(update=change)
        records.append(variant(template.model_copy(update={"case": case}), 12.0 + number, 3 + number))
    store(tmp_path / "runs", *records)
    assert leaderboard(tmp_path / "runs").set_index("psnr_mean")["rank"].to_dict() == {
        10.0: 1, 20.0: 2, 12.0: 1, 13.0: 1, 14.0: 1, 15.0: 1,
    }  # fmt: skip


def test_a_row_says_what_the_record_says(template: Record, tmp_path: Path) -> None:
    (row,) = table(tmp_path / "template")
    case, summary = template.case, template.summary
    assert {key: row[key] for key in ("defense", "defense_params", "attack", "attack_params", "adversary", "labels")} == {
        "defense": "none",
        "defense_params": "",
        "attack": "test-walk",
        "attack_params": "steps=4,pause=0.0,largest_batch=64",
        "adversary": "unaware",
        "labels": "recovered",
    }
    named = (row["model"], row["dataset"], row["weights"], row["seed"])
    assert named == (case.victim.model.name, "photos", "random", "0")
    assert (row["n_images"], row["batch_size"], row["steps"], row["failures"]) == ("2", "1", "4", "0")
    assert row["case"] == case.identity
    assert row["flags"] == "random-weights update-not-explained"
    for name in summary:
        found = tuple(float(row[f"{name}_{what}"]) for what in ("mean", "ci_low", "ci_high"))
        assert found == (summary[name].mean, summary[name].low, summary[name].high)
    # Neither is known here, and nothing that is not known is written as a number.
    assert (row["accuracy"], row["trials"]) == ("", "")
    # The test attack says class 0 for everything; the photos are of classes 5 and 3.
    assert row["label_accuracy"] == "0.0"


def test_known_labels_are_no_label_accuracy(
    small_case: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    compute(small_case(labels="known", limit=1), output=tmp_path / "known")
    (row,) = table(tmp_path / "known")
    assert row["label_accuracy"] == ""


def test_what_was_inferred_of_the_clients_choices_is_a_mean_over_those_about_which_it_was(
    template: Record, tmp_path: Path
) -> None:
    first, second = template.images
    found = first.model_copy(update={"mask_accuracy": 1.0, "order_accuracy": 0.25})
    partly = second.model_copy(update={"mask_accuracy": 0.5})
    failed = second.model_copy(update={"failure": "no luck"})
    store(tmp_path / "both", template.model_copy(update={"images": (found, partly)}))
    store(tmp_path / "failed", template.model_copy(update={"images": (found, failed)}))
    rows = {name: table(tmp_path / name)[0] for name in ("template", "both", "failed")}
    cells = {name: (row["mask_accuracy"], row["order_accuracy"]) for name, row in rows.items()}
    assert cells == {"template": ("", ""), "both": ("0.75", "0.25"), "failed": ("0.5", "0.125")}


def test_a_metric_that_some_records_lack_is_an_empty_cell(template: Record, tmp_path: Path) -> None:
    one, two = variant(template, 10.0, 1), variant(template, 20.0, 2)
    without = {name: interval for name, interval in two.summary.items() if name != "lpips"}
    one = scored(one, "lpips", [0.25, 0.75])
    store(tmp_path / "runs", one, two.model_copy(update={"summary": without}))
    rows = table(tmp_path / "runs")
    assert [row["lpips_mean"] for row in rows] == ["0.5", ""]
    assert not re.search(r"\bnan\b", leaderboard_csv(leaderboard(tmp_path / "runs")), re.IGNORECASE)


def test_the_same_records_give_the_same_bytes_wherever_they_lie(template: Record, tmp_path: Path) -> None:
    records = [variant(template, random.Random(seed).uniform(5, 30), seed) for seed in range(12)]
    extra = scored(records[3], "zeta", [0.4, 0.6])
    records[3] = extra.model_copy(update={"summary": dict(reversed(extra.summary.items()))})
    records[7] = scored(records[7], "alpha", [0.4, 0.6])
    store(tmp_path / "one", *records)
    for place, record in enumerate(reversed(records)):
        store(tmp_path / "two" / str(place % 3), record)
    write_leaderboard(tmp_path / "one", tmp_path / "one.csv")
    write_leaderboard(tmp_path / "two", tmp_path / "two.csv")
    first = (tmp_path / "one.csv").read_bytes()
    assert first == (tmp_path / "two.csv").read_bytes()
    write_leaderboard(tmp_path / "one", tmp_path / "one.csv")
    assert first == (tmp_path / "one.csv").read_bytes()
    assert b"\r" not in first
    assert first.endswith(b"\n")


def test_numbers_read_back_exactly(template: Record, tmp_path: Path) -> None:
    value = 10 + 1 / 3
    store(tmp_path / "runs", variant(template, value, 1))
    assert float(table(tmp_path / "runs")[0]["psnr_mean"]) == value


def test_failures_are_counted(small_case: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path) -> None:
    compute(small_case(attack="test-failing"), output=tmp_path / "failed")
    (row,) = table(tmp_path / "failed")
    assert (row["failures"], row["psnr_mean"], row["label_accuracy"]) == ("2", "0.0", "")
    assert row["flags"] == "failed-images random-weights"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema_version": 9}', "\x00"])
def test_a_broken_record_is_refused_by_name(content: str, template: Record, tmp_path: Path) -> None:
    store(tmp_path / "runs", variant(template, 10.0, 1))
    atomic_write(tmp_path / "runs" / "bad" / "record.json", content.encode())
    with pytest.raises(UserError, match=r"bad/record\.json") as caught:
        write_leaderboard(tmp_path / "runs", tmp_path / "out.csv")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.csv").exists()


def test_a_record_whose_case_was_edited_is_refused(template: Record, tmp_path: Path) -> None:
    record = variant(template, 10.0, 1)
    store(tmp_path / "runs", record.model_copy(update={"case": template.case}))
    with pytest.raises(UserError, match="was changed"):
        leaderboard(tmp_path / "runs")


def test_a_case_that_was_computed_in_two_places_has_two_rows_of_one_rank(template: Record, tmp_path: Path) -> None:
    for place in ("a", "b"):
        store(tmp_path / "runs" / place, variant(template, 10.0, 1))
    rows = leaderboard(tmp_path / "runs")
    assert len(set(rows["case"])) == 1
    assert rows["rank"].tolist() == [1, 1]


def utility(
    of: Record, defense: str, weights: str, accuracy: float, *, epochs: int | None = 1, images: int = 100, seed: int = 0
) -> UtilityReport:
    """A utility report; with epochs, of weights that were trained under the same defense."""
    parts = resolve_defense(defense)
    share = Interval(mean=accuracy, low=accuracy - 0.05, high=accuracy + 0.04, n=images)
    text = "+".join(map(str, parts))
    recipe: dict[str, float | int | str] = {"images": 8, "seed": seed}
    training = Training(defense=text, dataset="made", epochs=epochs, recipe=recipe) if epochs else None
    victim = of.case.victim.model_copy(update={"weights": f"{weights}.safetensors", "weights_sha256": weights})
    measured = {"accuracy": share, "defended_accuracy": share, "jigsaw": "mjp", "calibration_error": 0.1, "epsilon": 0.1}
    what = {"victim": victim, "training": training, "defense": parts, "dataset": "made", "images": images, "seed": 0}
    return UtilityReport.model_validate({**what, **measured, "torch": "2"})


def attacked(of: Record, defense: str, weights: str) -> Record:
    """A record of a victim with these weights under a defense."""
    victim = of.case.victim.model_copy(update={"weights": f"{weights}.safetensors", "weights_sha256": weights})
    case = of.case.model_copy(update={"victim": victim, "defense": resolve_defense(defense)})
    return of.model_copy(update={"case": case, "case_id": case.identity})


def test_what_training_costs_is_the_mean_over_seeds_with_an_interval_over_them_beside_that_over_images(
    template: Record, tmp_path: Path
) -> None:
    reports = [utility(template, "none", f"none-{seed}", 0.5 + seed / 100, seed=seed) for seed in range(3)]
    reports += [utility(template, "sign", f"sign-{seed}", 0.3 + seed / 50, seed=seed) for seed in range(2)]
    reports += [utility(template, "clipping", "clipping", 0.4), utility(template, "no-pe", "no-pe", 0.4, seed=7)]
    for one in reports:
        atomic_write(tmp_path / "runs" / f"utility--{one.victim.weights_sha256}.json", one.to_json().encode())
    pairs = [("none", "other"), ("sign", "other"), ("clipping", "other"), ("sign", "sign-1"), ("no-pe", "other")]
    store(tmp_path / "runs", *(attacked(template, *pair) for pair in pairs))
    rows = leaderboard(tmp_path / "runs").set_index(["defense", "weights"])
    names = [f"retrained_{name}" for name in ("accuracy", "undefended", "seeds", "ci_low", "seed_low", "seed_high")]

    def found(defense: str, weights: str) -> list[float]:
        row: Any = rows[names].astype(float).loc[(defense, f"{weights}.safetensors")]
        return [float(value) for value in row]

    half = 12.706 * 0.01  # two runs 0.02 apart: Student's 97.5 % quantile at one degree of freedom times 0.0141 / sqrt(2)
    # The undefended victims are those of the same seeds.
    assert found("sign", "other") == pytest.approx([0.31, 0.505, 2, 0.26, 0.31 - half, 0.31 + half], abs=1e-4)
    assert found("none", "other")[:3] == pytest.approx([0.51, 0.51, 3])
    assert found("clipping", "other")[:4] == pytest.approx([0.4, 0.50, 1, 0.35])
    assert found("no-pe", "other")[:4] == pytest.approx([0.4, 0.51, 1, 0.35])  # no undefended one has its seed: all of them
    assert np.isnan(found("clipping", "other")[4:]).all()
    shares: Any = rows[["retrained_share_seed_low", "retrained_share_seed_high"]].astype(float)
    # 0.30 of 0.50 and 0.32 of 0.51.
    first, second = 0.6, 0.32 / 0.51
    half = 12.706 * (second - first) / 2
    middle = (first + second) / 2
    assert list(shares.loc[("sign", "other.safetensors")]) == pytest.approx([middle - half, middle + half], abs=1e-4)
    assert shares.loc[[("none", "other.safetensors"), ("clipping", "other.safetensors")]].isna().all(axis=None)
    # The attacked victim is one of the seeds: its own accuracy is known.
    assert found("sign", "sign-1")[:3] == pytest.approx([0.32, 0.51, 1])


def test_what_training_under_a_defense_costs_is_told_of_the_attacked_victim_where_it_was_trained_so(
    template: Record, tmp_path: Path
) -> None:
    reports = (
        utility(template, "none", "long", 0.7, epochs=10, images=1000),
        utility(template, "none", "short", 0.4, epochs=2),
        utility(template, "sign", "sign-long", 0.6, epochs=10, images=1000),
        utility(template, "sign", "sign-short", 0.3, epochs=2),
        utility(template, "sign", "sign-alone", 0.5, epochs=3),
        utility(template, "clipping", "clipping", 0.38, epochs=2),
    )
    for one in reports:
        atomic_write(tmp_path / "runs" / f"utility--{one.victim.weights_sha256}.json", one.to_json().encode())
    pairs = [(one.defense[0].name, str(one.victim.weights_sha256)) for one in reports]
    pairs += [("sign", "long"), ("clipping", "long"), ("no-pe", "long")]
    store(tmp_path / "runs", *(attacked(template, *pair) for pair in pairs))
    rows = leaderboard(tmp_path / "runs")
    columns = [f"retrained_{name}" for name in ("accuracy", "ci_low", "undefended", "epochs", "images")]
    found = {}
    for _, row in rows.iterrows():
        values = tuple(None if pd.isna(row[name]) else row[name] for name in columns)
        found[row["defense"], row["weights"].removesuffix(".safetensors")] = values
    assert found == {
        ("none", "long"): (0.7, pytest.approx(0.65), 0.7, 10, 1000),
        # Not 0.7 / 0.7 (10), which is another victim.
        ("none", "short"): (0.4, pytest.approx(0.35), 0.4, 2, 100),
        ("sign", "sign-long"): (0.6, pytest.approx(0.55), 0.7, 10, 1000),
        ("sign", "sign-short"): (0.3, pytest.approx(0.25), 0.4, 2, 100),
        # No undefended victim was trained so.
        ("sign", "sign-alone"): (None,) * 5,
        ("clipping", "clipping"): (0.38, pytest.approx(0.33), 0.4, 2, 100),
        # Of weights that were not trained under it: the longest recipe.
        ("sign", "long"): (0.6, pytest.approx(0.55), 0.7, 10, 1000),
        ("clipping", "long"): (0.38, pytest.approx(0.33), 0.4, 2, 100),
        ("no-pe", "long"): (None,) * 5,
    }
    (measured,) = rows[rows["weights"] == "short.safetensors"].to_dict("records")
    assert [measured[f"utility_accuracy{end}"] for end in ("", "_low", "_high")] == pytest.approx([0.4, 0.35, 0.44])


def test_the_target_must_be_a_file(template: Record, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it is a folder"):
        write_leaderboard(tmp_path / "template", tmp_path)


def test_a_thousand_records_are_read_in_seconds(template: Record, tmp_path: Path) -> None:
    store(tmp_path / "runs", *(variant(template, 5 + seed / 100, seed) for seed in range(1000)))
    began = time.process_time()
    rows = leaderboard(tmp_path / "runs")
    assert len(rows) == 1000
    # The bar is 2 s; machines for tests are slow and shared.
    assert time.process_time() - began < 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mean": 20.0}, "summary.psnr has the mean 20, its images have 10"),
        ({"n": 3}, "summary.psnr is of 3 images, the record has 2"),
        ({"low": 10.5}, "summary.psnr has a mean of 10 outside its interval"),
    ],
)
def test_a_summary_that_does_not_follow_from_its_images_is_refused_by_name(
    change: dict[str, float], words: str, template: Record, tmp_path: Path
) -> None:
    found = variant(template, 10.0, 1)
    wrong = found.summary["psnr"].model_copy(update=change)
    store(tmp_path / "runs", found.model_copy(update={"summary": {**found.summary, "psnr": wrong}}))
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        leaderboard(tmp_path / "runs")
    assert str(tmp_path / "runs" / found.case.folder / "record.json") in str(caught.value)


def test_text_that_a_spreadsheet_would_compute_stands_behind_an_apostrophe() -> None:
    rows = pd.DataFrame({"flags": ["=1+1", "+a", "-b", "@c", "plain", None], "psnr_mean": [-1.0, 2.0, 3.0, 4.0, 5.0, None]})
    lines = leaderboard_csv(rows).splitlines()
    assert lines[1:] == ["'=1+1,-1.0", "'+a,2.0", "'-b,3.0", "'@c,4.0", "plain,5.0", ","]


@pytest.mark.parametrize(
    ("attack", "parameters", "local", "server", "letter"),
    [
        ("dlg", {}, None, None, "A"),
        ("closed-form", {}, None, None, "B"),
        ("local-steps", {}, LocalTraining(steps=5), None, "C"),
        ("gradvit", {"bn_prior": 0.2}, None, None, "E"),
        ("gradvit", {"bn_prior": 0.0}, None, None, "B"),
        ("fishing", {}, None, "fishing", "F"),
        ("imprint", {}, LocalTraining(steps=5), "imprint", "G"),
    ],
)
def test_a_case_has_the_letter_of_its_threat_model(
    template: Record, attack: str, parameters: dict[str, object], local: LocalTraining | None, server: str | None, letter: str
) -> None:
    case = template.case.model_copy(
        update={
            "attack": ComponentSpec(name=attack, parameters=parameters),
            "local": local,
            "server": None if server is None else ComponentSpec(name=server),
        }
    )
    assert sok_model(case) == letter
    hidden = case.model_copy(update={"threat_model": case.threat_model.model_copy(update={"training": "hidden"})})
    assert sok_model(hidden) == ("B" if letter == "C" else letter)
