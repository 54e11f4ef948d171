"""The front takes the leakiest row of each setting, and a point is on it exactly when nothing beats it on both sides."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from privbench.analysis.cases import case_table
from privbench.cli import main
from privbench.core import DEFENSES, Defense, Record, UserError, resolve_defense
from privbench.drawing.labels import least_hidden
from privbench.drawing.style import COLUMN_WIDTH, Paper, figure_bytes, figure_png, metric_label
from privbench.plots.families import FAMILIES, defense_family, family_looks
from privbench.plots.front import front_figure
from privbench.plots.front_points import FRONT_SETTING, front_points, share_interval
from privbench.plots.selection import one_setting
from privbench.scoring import registered_metric
from privbench.store.files import atomic_write
from privbench.store.places import local_folder

ALIKE = {"model": "m", "dataset": "d", "split": "test", "batch_size": 1, "labels": "recovered", "model_mode": "eval"} | {
    "local": "",
    "trains": "",
    "server": "",
}
RETRAINED = dict.fromkeys(
    f"retrained_{name}" for name in ("accuracy", "undefended", "epochs", "images", "seeds", "share_seed_low", "share_seed_high")
)
RESULTS = Path(__file__).parents[2] / "results"
REFERENCE = local_folder(RESULTS / "reference.jsonl.gz")


def row(
    defense: str, leakage: float, accuracy: float | None, utility: float | None = None, **changes: object
) -> dict[str, object]:
    scores = {"psnr_mean": leakage, "psnr_ci_low": leakage - 1, "psnr_ci_high": leakage + 2}
    named = {"defense": defense, "defense_params": "", "attack": "a", "adversary": "aware"}
    bounds = {
        f"utility_accuracy_{end}": None if utility is None else utility + by for end, by in (("low", -0.01), ("high", 0.02))
    }
    measured = {"utility_accuracy": utility, **bounds, "utility_images": None if utility is None else 100}
    known = {"n_images": 16, "weights": "embedded", "flags": "", "accuracy": accuracy}
    return {**ALIKE, **named, **scores, **known, **measured, **RETRAINED, **changes}


def trained(
    share: float, *, epochs: int = 2, images: int = 2000, seeds: int = 1, over: tuple[float | None, float | None] = (None, None)
) -> dict[str, Any]:
    """Columns of a victim trained under the defense, beside an undefended one that is right on half the images."""
    values = (share / 2, 0.5, epochs, images, seeds, *over)
    return dict(zip(RETRAINED, values, strict=True))


def points(*rows: dict[str, object], higher: bool = True) -> pd.DataFrame:
    return front_points(pd.DataFrame(list(rows)), metric="psnr", higher_is_leakier=higher).set_index("defense")


def test_the_strongest_attack_counts_and_the_measured_report_goes_before_the_card() -> None:
    found = points(row("x", 10, 0.7), row("x", 30, 0.7, attack="b"), row("y", 20, 0.6, utility=0.5))
    assert list(found.loc["x", ["leakage", "attack", "low", "high", "accuracy"]]) == [30, "b", 29, 32, 0.7]
    assert list(found.loc["y", ["accuracy", "source"]]) == [0.5, "utility"]
    assert points(row("x", 10, 0.7), row("x", 30, 0.7), higher=False).loc["x", "leakage"] == 10


def test_where_victims_were_trained_under_their_defenses_only_their_accuracy_is_drawn() -> None:
    found = points(row("x", 10, 0.7, **trained(0.5)), row("y", 20, 0.6, utility=0.5))
    assert list(found.index) == ["x"]
    low, high = share_interval(0.25, 0.5, 2000)
    assert list(found.loc["x", ["accuracy", "accuracy_low", "accuracy_high"]]) == pytest.approx([0.5, float(low), float(high)])
    assert list(found.loc["x", ["source", "kind", "accuracy_n", "n"]]) == ["retrained", "trained for 2 epochs", 2000, 16]


def test_the_undefended_victim_is_what_the_others_are_a_share_of() -> None:
    found = points(row("none", 90, 0.7, **trained(1.0)), row("x", 10, 0.7, **trained(1.0)))
    assert list(found.loc["none", ["accuracy", "accuracy_low", "accuracy_high"]]) == [1, 1, 1]
    assert list(found["accuracy_low"] < 1) == list(found["accuracy_high"] > 1) == [False, True]


def test_the_interval_of_a_share_covers_it_as_often_as_it_says_for_that_both_accuracies_vary() -> None:
    random = np.random.default_rng(0)
    over, under = (random.binomial(2000, share, 20_000) / 2000 for share in (0.27, 0.36))
    low, high = share_interval(over, under, 2000)
    assert np.mean((low <= 0.27 / 0.36) & (high >= 0.27 / 0.36)) == pytest.approx(0.95, abs=0.005)
    # As if the undefended accuracy were known: too narrow.
    half = 1.96 * np.sqrt(over * (1 - over) / 2000)
    assert np.mean((over - half <= 0.27 / 0.36 * under) & (over + half >= 0.27 / 0.36 * under)) < 0.92
    assert np.isnan(share_interval(0, 0.5, 100)).all()


def test_one_victim_stands_at_one_accuracy_whatever_it_is_attacked_under() -> None:
    found = points(
        row("a", 10, 0.7, utility=0.6),
        row("b", 20, 0.7),
        row("c", 30, 0.7, utility=0.65, utility_images=500),
        row("d", 40, 0.8),
        row("e", 50, 0.7, flags="x defense-added-after-training"),
    )
    assert found["accuracy"].to_dict() == {"a": 0.65, "b": 0.65, "c": 0.65, "d": 0.8, "e": 0.7}
    assert found["source"].to_dict() == {"a": "utility", "b": "utility", "c": "utility", "d": "card", "e": "card"}
    assert list(found.loc["b", ["accuracy_low", "accuracy_high", "accuracy_n"]]) == pytest.approx([0.64, 0.67, 500])
    assert found.loc[["d", "e"], ["accuracy_low", "accuracy_n"]].isna().all(axis=None)


def test_reports_of_the_reference_bring_their_intervals() -> None:
    rows = one_setting(case_table(REFERENCE), [*FRONT_SETTING, "images"], differ_in="defense_label")
    found = front_points(rows, metric="psnr", higher_is_leakier=True)
    mjp = found[found["defense"] == "mjp"]
    assert len(mjp) == 1
    assert set(found["source"]) == {"retrained"}
    # The undefended one is the measure of all.
    others = found[found["defense"] != "none"]
    assert (others["accuracy_low"] < others["accuracy"]).all()
    assert (others["accuracy"] < others["accuracy_high"]).all()


_SETTINGS = (
    (1.0, "identity", False),
    (1.0, "zero", False),
    (2.0, "zero", True),
    (3.0, "identity", False),
    (3.0, "identity", True),
)


def test_settings_are_named_by_what_their_defense_differs_in_and_come_in_the_order_of_strength() -> None:
    found = points(
        *(row("p", 30 - place, 0.7, defense_params=f"p={p},scope=layer") for place, p in enumerate((0.9, 0.05, 0.5))),
        row("one", 9, 0.7, defense_params="rounding=nearest,cutoff=0.0,bits=2"),
        row("text", 9, 0.7, defense_params="layers=all,cutoff=0.0"),
        *(row("a+b", 9, 0.7, defense_params=f"x=1,y=2+x={x}") for x in ("1e+16", "0.001")),
        row("some", 9, 0.7, defense_params=""),
        row("some", 9, 0.7, defense_params="ratio=0.5"),
        row("bare", 9, 0.7),
        # The third has no price and is left out: what the other two share is named once.
        row("shared", 9, 0.7, defense_params="std=0.01,scale=absolute"),
        row("shared", 9, 0.7, defense_params="std=0.1,scale=absolute"),
        row("shared", 9, None, defense_params="std=0.1,scale=relative"),
        # What most rows have is not said of each.
        *(row("also", 9, 0.7, defense_params=f"spread={x},mean={mean},all={on}") for x, mean, on in _SETTINGS),
    ).groupby(level=0)[["parameter", "strength"]]
    named = {str(name): (set(group["parameter"]), list(group["strength"])) for name, group in found}
    assert named == {
        "p": ({"p"}, ["0.05", "0.5", "0.9"]),
        "one": ({"bits"}, ["2"]),
        "text": ({"layers"}, ["all"]),
        "a+b": ({"x"}, ["0.001", "1e+16"]),
        "some": ({"ratio"}, ["0.5", "default"]),
        "bare": ({""}, [""]),
        "shared": ({"scale absolute, std"}, ["0.01", "0.1"]),
        "also": ({"spread"}, ["1", "1 (mean zero)", "2 (mean zero, all)", "3", "3 (all)"]),
    }


def test_the_front_holds_what_nothing_beats() -> None:
    rows = (row("good", 10, 0.7), row("dominated", 12, 0.6), row("private", 5, 0.5), row("equal", 10, 0.7))
    assert points(*rows)["on_front"].to_dict() == {"good": True, "dominated": False, "private": True, "equal": True}


def test_rows_that_do_not_compare_are_refused() -> None:
    with pytest.raises(UserError, match=r"rows of different dataset do not compare \(d, e\)"):
        points(row("x", 1, 0.5), row("y", 1, 0.5, dataset="e"))
    with pytest.raises(UserError, match="no row has an accuracy"):
        points(row("x", 1, float("nan")))
    with pytest.raises(UserError, match="no metric 'ssim'; accepted: psnr"):
        front_points(pd.DataFrame([row("x", 1, 0.5)]), metric="ssim", higher_is_leakier=True)


def drawn(found: pd.DataFrame, *, label: str = "PSNR, dB", higher: bool = True) -> tuple[Figure, list[Axes]]:
    figure = front_figure(found.reset_index(), label=label, higher_is_leakier=higher)
    figure.draw_without_rendering()
    return figure, list(figure.axes)


def words(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_what_gives_the_image_away_stands_in_rows_with_its_number_and_presses_nothing_together() -> None:
    rows = [row("x", leakage, 0.7, defense_params=f"p={p}") for leakage, p in ((120, 0.1), (90, 0.5), (30, 0.9))]
    _, (rows_above, panel) = drawn(points(*rows, row("y", 10, 0.7), row("none", 127, 0.7)))
    assert words(rows_above) == ["none: 127", "x, p 0.1, 0.5: 90 to 120", "from the top: PSNR, dB"]
    assert words(panel) == ["0.9"]
    assert panel.get_yscale() == "linear"
    assert panel.get_ylim()[1] < 40
    (only,) = drawn(points(row("x", 120, 0.7)))[1]
    assert "recovered" in only.get_title(loc="left")
    (only,) = drawn(points(row("x", 12, 0.7)))[1]
    assert only.get_ylabel().startswith("PSNR, dB")


def test_a_metric_that_allows_any_order_of_patches_says_by_it_what_is_recovered() -> None:
    rows = pd.DataFrame([row("x", 12, 0.7, psnr_patch_mean=80.0, psnr_patch_ci_low=70.0, psnr_patch_ci_high=90.0)])
    found = [front_points(rows, metric=name, higher_is_leakier=True)["recovered"].to_list() for name in ("psnr", "psnr_patch")]
    assert found == [[False], [True]]


def test_the_caption_says_whose_numbers_these_are_and_of_how_many_images() -> None:
    figure, (axes,) = drawn(
        points(row("x", 10, 0.7, **trained(0.9)), row("y", 12, 0.7, **trained(0.8, epochs=10, images=10_000)))
    )
    caption = " ".join(figure.get_suptitle().split())
    assert "Leakage: of the attacked victim by its strongest attack and adversary, mean of n = 16 images." in caption
    assert "of a victim trained under the defense, often another" in caption
    assert "n = 10,000 (10 epochs), 2,000 (2 epochs) test images" in caption
    assert "95 % intervals" in caption
    assert axes.get_xlabel() == "accuracy of a victim trained under the defense,\n% of an undefended one's by the same recipe"
    legend = axes.get_legend()
    assert legend is not None
    assert {"x", "y", "hollow: short training (<90%)"} <= {text.get_text() for text in legend.get_texts()}
    assert "n = 100 test images" in drawn(points(row("x", 10, 0.7, utility=0.6)))[0].get_suptitle()
    assert "test images" not in drawn(points(row("x", 10, 0.7)))[0].get_suptitle()


def test_an_interval_over_training_runs_is_a_wide_bar_of_its_own_and_the_caption_tells_it_from_that_over_images() -> None:
    figure, (axes,) = drawn(
        points(row("x", 10, 0.7, **trained(0.9, seeds=3, over=(0.85, 0.95))), row("y", 12, 0.7, **trained(0.8)))
    )
    wide = [line for line in axes.collections if line.get_linewidth() == [4]]
    assert [line.get_segments()[0].tolist() for line in wide] == [[[85, 10], [95, 10]]]  # type: ignore[attr-defined]
    said = "95 % intervals over images, wide pale ones over 3 training runs, paired by seed."
    assert said in " ".join(figure.get_suptitle().split())
    one = drawn(points(row("x", 10, 0.7, **trained(0.9))))[0]
    assert "training runs" not in one.get_suptitle()


def test_points_of_a_short_recipe_are_hollow_and_the_caption_says_so() -> None:
    # An undefended victim of either recipe is right on half the images; the attacked one on 0.7 or 0.55 of them.
    for accuracy, hollow in ((0.7, True), (0.55, False)):
        figure, (axes,) = drawn(points(row("x", 10, accuracy, **trained(0.9)), row("y", 12, accuracy, **trained(0.8))))
        faces = [line.get_markerfacecolor() for line in axes.lines if line.get_marker() in {"o", "s"} and len(line.get_xdata())]  # type: ignore[arg-type]
        assert [face == "white" for face in faces] == [hollow, hollow]
        assert ("Hollow: an undefended victim of the same recipe" in figure.get_suptitle().replace("\n", " ")) is hollow


def test_a_share_above_one_is_explained() -> None:
    above, below = (drawn(points(row("x", 10, 0.7, **trained(share))))[0].get_suptitle() for share in (1.2, 0.9))
    assert "Above 100 %" in above
    assert "Above 100 %" not in below


@pytest.fixture(scope="module")
def front_rows() -> pd.DataFrame:
    """The records of the front, of one setting."""
    return one_setting(
        case_table(local_folder(RESULTS / "front.jsonl.gz")), [*FRONT_SETTING, "images"], differ_in="defense_label"
    )


@pytest.mark.parametrize("metric", ["psnr", "ssim", "lpips", "mse", "psnr_patch", "ssim_patch", "fft2d_mse", "fft2d_cosine"])
def test_the_leakage_axis_has_numbers_and_the_private_side_is_below(metric: str, front_rows: pd.DataFrame) -> None:
    higher = registered_metric(metric).higher_is_leakier
    found = front_points(front_rows, metric=metric, higher_is_leakier=higher)
    _, axes = drawn(found, label=metric_label(metric).partition(" (")[0], higher=higher)
    low, high = sorted(axes[-1].get_ylim())
    ticks = zip(axes[-1].get_yticks(), axes[-1].get_yticklabels(), strict=True)
    assert len([tick for tick, text in ticks if low <= tick <= high and text.get_text()]) >= 2
    assert axes[-1].yaxis_inverted() is not higher
    # Turned with the text, the arrow points down.
    assert axes[-1].get_ylabel().endswith("← more private")


def test_families_have_one_colour_each_and_the_first_fourteen_defenses_differ_without_colour() -> None:
    looks = family_looks(DEFENSES.names())
    colours = {name: look.colour for name, look in looks.items()}
    assert colours["mjp"] == colours["naive-shuffle"] == FAMILIES["input"]
    assert colours["pruning"] == colours["sign"] == FAMILIES["gradient"] != colours["dpsgd"]
    assert defense_family("mjp+naive-shuffle") == "input"
    assert defense_family("mjp+sign") == "combined"
    assert defense_family("not-installed") == "other"
    assert len(set(FAMILIES.values())) == len(FAMILIES)
    assert len({look.marker for look in list(looks.values())[:14]}) == 14


def test_a_defense_by_others_belongs_to_what_its_hooks_change() -> None:
    class Grey(Defense):
        name = "grey"

        def protect_gradients(self, gradients: dict[str, Any], generator: Any) -> dict[str, Any]:
            return gradients

    DEFENSES.register("grey", Grey)
    try:
        assert defense_family("grey") == "gradient"
    finally:
        DEFENSES.unregister("grey")


def test_a_raster_is_fit_for_print() -> None:
    with Image.open(io.BytesIO(figure_png(drawn(points(row("x", 10, 0.7)))[0]))) as picture:
        assert picture.width >= 200 * 6.8 - 1


def test_labels_cover_neither_each_other_nor_what_is_drawn_where_there_is_room() -> None:
    random = np.random.default_rng(0)
    anchors = np.stack(np.meshgrid(np.arange(100, 900, 90.0), np.arange(100, 500, 60.0)), axis=-1).reshape(-1, 2)
    anchors = anchors + random.uniform(-15, 15, anchors.shape)
    sizes = np.tile([30.0, 10.0], (len(anchors), 1))
    markers = np.concatenate([anchors - 5, anchors + 5], axis=1)
    frame = np.array([[0.0, 0.0, 1000.0, 600.0]])
    boxes = least_hidden(anchors, sizes, markers, frame, gap=8)
    everything = [*boxes, *markers]
    for number, box in enumerate(boxes):
        assert np.hypot(*((box[:2] + box[2:]) / 2 - anchors[number])) < 50
        for other in everything[number + 1 :]:
            assert (np.maximum(box[:2], other[:2]) >= np.minimum(box[2:], other[2:])).any()
    assert (least_hidden(anchors, sizes, markers, frame, gap=8) == boxes).all()


def test_a_label_stays_within_the_frame_and_keeps_off_a_neighbour() -> None:
    frame = np.array([[0.0, 0.0, 100.0, 100.0]])
    ends: Any = np.array([[98.0, 50.0], [50.0, 50.0], [50.0, 62.0]])
    boxes = least_hidden(ends, np.full((3, 2), (30.0, 10.0)), np.zeros((0, 4)), frame, gap=4)
    assert boxes[0][2] <= 98
    assert (boxes[1][[1, 3]] <= boxes[2][[1, 3]]).all()


@pytest.mark.parametrize(("form", "start"), [("pdf", b"%PDF"), ("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_equal_points_give_equal_files(form: str, start: bytes) -> None:
    found = points(row("x", 10, 0.7), row("y", 5, 0.6)).reset_index()
    first, second = (figure_bytes(front_figure(found, label="PSNR, dB", higher_is_leakier=True), form) for _ in range(2))
    assert first == second
    assert first.startswith(start)


def test_the_command_draws_records_and_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    results = tmp_path / "results"
    for folder in REFERENCE.glob("*--cifar10--*"):
        (results / folder.name).mkdir(parents=True)
        (results / folder.name / "record.json").write_bytes((folder / "record.json").read_bytes())
    done = CliRunner().invoke(main, ["figure", "front", str(results), "-o", str(tmp_path / "front.pdf")])
    assert done.exit_code == 0, done.output
    assert "4 points, 4 on the front, 4 give the image away" in done.output
    assert (tmp_path / "front.pdf").stat().st_size > 1000
    wrong = CliRunner().invoke(main, ["figure", "front", str(results), "-o", str(tmp_path / "front.txt")])
    assert wrong.exit_code == 2
    assert "accepted: .pdf, .png, .svg" in wrong.output


def test_masks_of_given_blocks_are_no_point_on_the_axis_of_mask_ratios(tmp_path: Path) -> None:
    folder = local_folder(RESULTS / "front.jsonl.gz")
    assert set(case_table(folder)["mask_ratio"].dropna()) == {0.03, 0.1, 0.27, 0.5, 0.9}
    record = Record.load(min(folder.glob("mjp--closed-form--*/record.json")))
    defense = resolve_defense("mjp:mask_ratio=0.4,smallest_block=8,largest_block=75")
    case = record.case.model_copy(update={"defense": defense})
    given = record.model_copy(update={"case": case, "case_id": case.identity})
    atomic_write(tmp_path / case.folder / "record.json", given.to_json().encode())
    assert case_table(tmp_path)["mask_ratio"].isna().all()


def test_on_one_column_long_labels_do_not_squeeze_the_front() -> None:
    found = points(row("none", 90, 0.7, utility=0.7), row("mjp", 110, 0.7, utility=0.6), row("x", 20, 0.7, utility=0.6))
    long = found.reset_index().assign(parameter="mask ratio", strength="0.1, smallest block 8, largest block 75")
    figure = front_figure(long, label="PSNR", higher_is_leakier=True, paper=Paper(COLUMN_WIDTH))
    figure.draw_without_rendering()
    assert min(axes.get_window_extent().width for axes in figure.axes) > 0.35 * figure.bbox.width
