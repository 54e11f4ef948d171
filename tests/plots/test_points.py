"""From tables of cases to points: each figure takes what compares, says what differs, and refuses what it lacks in one line."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from privbench.core import UserError
from privbench.plots.ablation import ablation_points
from privbench.plots.architectures import architectures_points
from privbench.plots.leakage_map import leakage_map_points
from privbench.plots.mask_ratio import mask_ratio_points
from privbench.plots.selection import one_setting, setting_text
from privbench.plots.settings import settings_points
from privbench.plots.trajectories import trajectories_points
from tests.plots.tables import CONTROL, LADDER, case, mjp, table

# Ablation


def test_nested_variants_are_a_ladder_and_the_control_comes_first() -> None:
    points = ablation_points(table(*LADDER[::-1], CONTROL))
    steps = ["+ BN prior", "+ patch prior", "+ registration", "+ schedule", "+ relocation"]
    assert list(points["name"]) == ["control: priors, no gradient", "gradient", *steps]
    assert list(points["mean"]) == [9, 10, 12, 13, 13.5, 15, 22]
    assert points["common"].iloc[0] == "total variation, position rows, observed residual, first block only"


def test_a_gradient_without_anything_is_called_so() -> None:
    bare: dict[str, Any] = {
        "schedule": "constant",
        "residual": "simulated",
        "layers": "all",
        "position_matching": 0.0,
        "position_error": 0.0,
        "bn_prior": 0.0,
        "patch_prior": 0.0,
        "total_variation": 0.0,
        "total_variation_end": 0.0,
        "relocation": False,
    }
    second = {**bare, "bn_prior": 1.0}
    third = {**second, "patch_prior": 1.0}
    points = ablation_points(table(*(case(1, parameters=parameters) for parameters in (bare, second, third))))
    assert list(points["name"]) == ["gradient only", "+ BN prior", "+ patch prior"]


def test_variants_that_are_not_nested_say_what_they_lack_and_other_strengths_are_written_out() -> None:
    rows = table(
        case(20),
        case(15, parameters={"relocation": False}),
        case(14, parameters={"bn_prior": 0.0}),
        case(21, parameters={"total_variation": 0.5}),
    )
    named = ablation_points(rows).set_index("name")["mean"].to_dict()
    assert named["without relocation"] == 15
    assert named["without BN prior"] == 14
    assert {named["all terms"], *(value for name, value in named.items() if "total_variation=" in str(name))} == {20, 21}


def test_variants_beside_a_ladder_follow_it_and_say_what_they_lack() -> None:
    aside = [case(11, parameters={"bn_prior": 0.0}), case(12, parameters={"patch_prior": 0.0, "relocation": False})]
    points = ablation_points(table(*LADDER, *aside))
    steps = ["+ BN prior", "+ patch prior", "+ registration", "+ schedule", "+ relocation"]
    assert list(points["name"])[:6] == ["gradient", *steps]
    assert dict(zip(points["name"], points["mean"], strict=True)).items() >= {
        ("without BN prior, registration", 11),
        ("without patch prior, registration, relocation", 12),
    }


def test_registration_is_on_only_where_trials_have_a_consensus() -> None:
    names = list(ablation_points(table(case(1), case(2, parameters={"trials": 2})))["name"])
    assert names == ["without registration", "all terms"]


def test_an_ablation_compares_one_setting_without_defense() -> None:
    other = [case(5, batch_size=2), case(6, attack="dlg"), mjp(7, 0.1), case(8, parameters={"steps": 1}, seed=1)]
    leakage_map = [case(3, parameters={"layers": "head"})]
    assert list(ablation_points(table(*other, *leakage_map, case(1), case(2, parameters={"relocation": False})))["mean"]) == [
        2,
        1,
    ]


# MJP's mask ratio


def test_the_leakiest_attack_counts_for_each_ratio_and_adversary() -> None:
    rows = table(
        mjp(10, 0.5),
        mjp(30, 0.5, attack="subspace"),
        mjp(20, 0.1),
        mjp(90, 0.5, adversary="oracle"),
        mjp(80, 0.5, adversary="aware"),
        case(100),
        mjp(50, 0.27, images="7"),
    )
    points = mask_ratio_points(rows)
    found = list(zip(points["adversary"], points["mask_ratio"], points["mean"], points["attack"], strict=True))
    assert found == [
        ("unaware", 0.1, 20, "gradvit"),
        ("unaware", 0.5, 30, "subspace"),
        ("aware", 0.5, 80, "gradvit"),
        ("oracle", 0.5, 90, "gradvit"),
    ]
    assert list(points["low"]) == [19, 29, 79, 89]


# Settings


def test_only_cases_that_differ_in_one_thing_stand_in_a_panel() -> None:
    rows = table(
        case(25),
        case(20, batch_size=2, images="0,1,2", n_images=3),
        case(10, weights="random"),
        case(18, model_mode="train"),
        case(5, model_mode="train", weights="random", seed=3),
        case(7, image_size=64, dataset="photos"),
    )
    points = settings_points(rows)
    found = {axis: dict(zip(group["value"], group["mean"], strict=True)) for axis, group in points.groupby("axis")}
    assert found == {
        "batch_size": {1: 25, 2: 20},
        "weights": {"embedded": 25, "random": 10},
        "model_mode": {"eval": 25, "train": 18},
    }
    assert list(points.loc[points["value"] == 2, "n"]) == [3]
    assert set(points["series"]) == {"gradvit"}


def test_series_of_one_name_are_told_apart() -> None:
    rows = [
        case(value, model=model, batch_size=size) for model, size, value in (("a", 1, 9), ("a", 2, 8), ("b", 1, 7), ("b", 2, 6))
    ]
    points = settings_points(table(*rows))
    assert points.groupby("series")["mean"].apply(list).to_dict() == {"gradvit, a": [9, 8], "gradvit, b": [7, 6]}


def test_a_series_never_runs_from_one_data_set_to_another_and_a_case_may_stand_on_two_axes() -> None:
    rows = [
        *(case(value, image_size=size) for value, size in ((9, 16), (8, 32))),
        *(case(value, image_size=size, dataset="photos", images="7,8") for value, size in ((7, 32), (6, 64))),
        case(5, image_size=32, weights="random"),
    ]
    points = settings_points(table(*rows))
    sizes = points[points["axis"] == "image_size"].groupby("series")["value"].apply(list).to_dict()
    assert len(sizes) == 2
    assert {tuple(values) for values in sizes.values()} == {(16, 32), (32, 64)}
    assert {str(name).rpartition(", ")[2] for name in sizes} == {"cifar10", "photos"}
    assert set(points["axis"]) == {"image_size", "weights"}


# Leakage map and architectures


def test_groups_of_parameters_stand_in_the_order_of_the_network() -> None:
    names = ("block-10", "head", "attention", "block-2", "all", "embedding", "new-group")
    other = case(99, parameters={"layers": "mlp", "steps": 5})
    rows = table(*(case(place, parameters={"layers": name}) for place, name in enumerate(names)), other)
    points = leakage_map_points(rows)
    assert list(points["name"]) == ["all", "embedding", "attention", "head", "new-group", "block-2", "block-10"]
    assert list(points["mean"]) == [4, 5, 2, 1, 6, 3, 0]


def test_models_compare_under_one_attack_with_the_same_parameters() -> None:
    rows = table(
        case(20, attack="dlg", model="vit"),
        case(10, attack="dlg", model="cnn"),
        case(30, attack="dlg", model="cnn", parameters={"steps": 3}),
        case(40, attack="idlg", model="vit"),
        mjp(50, 0.1, model="cnn"),
    )
    points = architectures_points(rows)
    assert list(zip(points["name"], points["model"], points["mean"], strict=True)) == [("dlg", "cnn", 10), ("dlg", "vit", 20)]


# Trajectories


def test_a_trajectory_is_every_finite_value_by_series_and_quantity() -> None:
    where = {"batch": [0, 0, 1, 1], "step": [10, 20, 10, 20], "phase": list("abab")}
    one = pd.DataFrame({**where, "loss": [3.0, 2.0, 5.0, 2.0], "late": [np.nan, 1.0, np.nan, np.nan]})
    points = trajectories_points({"one": one, "two": one.drop(columns="late")})
    assert len(points) == 5
    assert points[points["quantity"] == "late"].to_dict("records") == [
        {"series": "one", "step": 20, "phase": "b", "quantity": "late", "value": 1.0, "low": 1.0, "high": 1.0, "n": 1}
    ]
    first, second = points[(points["series"] == "two")].to_dict("records")
    assert (first["value"], first["low"], first["high"], first["n"]) == (4, 3, 5, 2)
    assert (second["value"], second["low"], second["high"]) == (2, 2, 2)


# What all share


def test_the_setting_with_most_to_compare_is_taken_and_then_the_one_with_most_images() -> None:
    rows = pd.DataFrame({"s": list("aabbbcc"), "d": [1, 2, 1, 1, 1, 1, 2], "n_images": [4, 4, 9, 9, 9, 8, 8]})
    assert set(one_setting(rows, ["s"], differ_in="d")["s"]) == {"c"}


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (ablation_points, "an ablation needs"),
        (mask_ratio_points, "no record has defense mjp"),
        (settings_points, "no two records differ"),
        (leakage_map_points, "a leakage map needs"),
        (architectures_points, "no attack met two models"),
    ],
)
def test_what_is_missing_is_said_with_the_command_that_makes_it(points: Callable[..., pd.DataFrame], words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        points(table(case(1)))
    assert "`privbench run --defense " in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="no record has a loss trace"):
        trajectories_points({})


@pytest.mark.parametrize(
    "points", [ablation_points, leakage_map_points, architectures_points, settings_points, mask_ratio_points]
)
def test_a_metric_that_no_case_has_is_refused_and_never_a_nan(points: Callable[..., pd.DataFrame]) -> None:
    rows = table(
        case(1, batch_size=2),
        case(1, model="b"),
        case(1),
        case(1, parameters={"layers": "all"}),
        case(1, parameters={"relocation": False}),
        mjp(1, 0.1),
    ).assign(ssim_mean=np.nan, ssim_ci_low=np.nan, ssim_ci_high=np.nan)
    assert not points(rows)[["mean", "low", "high", "n"]].isna().any(axis=None)
    with pytest.raises(UserError, match="no case has the metric 'ssim'; accepted: psnr"):
        points(rows, metric="ssim")


def test_a_title_says_which_kind_of_update_all_rows_are_about() -> None:
    rows = table(case(10), case(12)).assign(n=2)
    whole = setting_text(rows)
    assert setting_text(rows.assign(trains="head", local="sgd, 5 steps")) == whole.replace(
        ", n =", ", client trains by sgd, 5 steps, sent: head, n ="
    )
    assert setting_text(rows.assign(trains=["head", "mlp"])) == whole
