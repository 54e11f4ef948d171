"""The front takes the leakiest row of each setting, and a point is on it exactly when nothing beats it on both sides."""

from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from privbench.cli import main
from privbench.core import UserError
from privbench.figures import figure_bytes, front_figure, front_points

ALIKE = {"model": "m", "dataset": "d", "split": "test", "batch_size": 1, "labels": "recovered", "model_mode": "eval"}
RETRAINED = dict.fromkeys(("retrained_accuracy", "retrained_ci_low", "retrained_ci_high"))
REFERENCE = Path(__file__).parents[2] / "results" / "reference"


def row(defense: str, leakage: float, accuracy: float, price: float | None = None, **changes: object) -> dict[str, object]:
    scores = {"psnr_mean": leakage, "psnr_ci_low": leakage - 1, "psnr_ci_high": leakage + 2}
    named = {"defense": defense, "defense_params": "", "attack": "a", "adversary": "aware"}
    return {**ALIKE, **named, **scores, "accuracy": accuracy, "price_accuracy": price, **RETRAINED, **changes}


def points(*rows: dict[str, object], higher: bool = True) -> pd.DataFrame:
    return front_points(pd.DataFrame(list(rows)), metric="psnr", higher_is_leakier=higher).set_index("defense")


def test_the_strongest_attack_counts_and_the_measured_price_goes_before_the_card() -> None:
    found = points(row("x", 10, 0.7), row("x", 30, 0.7, attack="b"), row("y", 20, 0.6, price=0.5))
    assert list(found.loc["x", ["leakage", "attack", "low", "high", "accuracy"]]) == [30, "b", 29, 32, 0.7]
    assert list(found.loc["y", ["accuracy", "source"]]) == [0.5, "price"]
    assert points(row("x", 10, 0.7), row("x", 30, 0.7), higher=False).loc["x", "leakage"] == 10


def test_where_victims_were_trained_under_their_defenses_only_their_accuracy_is_drawn() -> None:
    trained = {"retrained_accuracy": 0.4, "retrained_ci_low": 0.3, "retrained_ci_high": 0.5, "retrained_undefended": 0.8}
    found = points(row("x", 10, 0.7, **trained), row("y", 20, 0.6, price=0.5))
    assert list(found.index) == ["x"]
    shares = found.loc["x", ["accuracy", "accuracy_low", "accuracy_high"]]
    assert list(shares) == pytest.approx([0.5, 0.375, 0.625])
    assert found.loc["x", "source"] == "retrained"


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


@pytest.mark.parametrize(("leakage", "scale"), [((10, 30), "linear"), ((10, 120), "log")])
def test_exact_reconstructions_do_not_press_the_others_together(leakage: tuple[float, float], scale: str) -> None:
    found = points(*(row(f"d{value}", value, 0.7) for value in leakage)).reset_index()
    (axes,) = front_figure(found, label="PSNR, dB", higher_is_leakier=True).axes
    assert axes.get_yscale() == scale


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
    assert "5 points, 3 on the front" in done.output
    assert (tmp_path / "front.pdf").stat().st_size > 1000
    wrong = CliRunner().invoke(main, ["figure", "front", str(results), "-o", str(tmp_path / "front.txt")])
    assert wrong.exit_code == 2
    assert "accepted: .pdf, .png, .svg" in wrong.output
