"""The progress display: position, pace, and plain lines where there is no terminal."""

import io
import re
import time
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from privbench.cli.progress import LiveProgress, PlainProgress, QuietProgress
from privbench.cli.sweep_progress import sweep_progress
from privbench.core import Case, ComponentSpec, DataSpec, ModelSpec, VictimSpec
from privbench.runner.listener import StepReport
from privbench.sweep.progress import SweepProgress
from privbench.watch.position import Position, clock

CASE = Case(
    attack=ComponentSpec(name="test-walk"),
    defense=(ComponentSpec(name="none"),),
    victim=VictimSpec(model=ModelSpec(name="vit_mini_patch4_32", num_classes=10, image_size=32), weights="random"),
    data=DataSpec(indices=(0, 1), sha256="0"),
)


def label(case: Case) -> str:
    return {CASE.identity: "none"}[case.identity]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test moves."""
    moment = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: moment[0])
    return moment


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (75, "1:15"), (3725, "1:02:05")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_the_pace_gives_the_remaining_time(now: list[float]) -> None:
    where = Position(CASE, "none", batches=2)
    where.moved(StepReport((0,), 0, 10, "early", ({},)))
    assert where.remaining is None
    now[0] += 5
    where.moved(StepReport((0,), 5, 10, "early", ({},)))
    assert where.fraction == 0.25
    assert where.elapsed == 5
    assert where.remaining == 15.0


def test_a_continued_case_counts_its_pace_from_where_it_continued(now: list[float]) -> None:
    where = Position(CASE, "none", batches=2, finished=[0])
    now[0] += 50
    where.moved(StepReport((1,), 0, 10, "early", ({},)))
    now[0] += 5
    where.moved(StepReport((1,), 5, 10, "early", ({},)))
    assert where.fraction == 0.75
    assert where.remaining == 5


def test_groups_that_run_at_once_add_up(now: list[float]) -> None:
    where = Position(CASE, "none", batches=8, finished=[7])
    where.moved(
        StepReport(
            (
                0,
                1,
            ),
            0,
            10,
            "early",
            (
                {},
                {},
            ),
        )
    )
    where.moved(
        StepReport(
            (
                2,
                3,
                5,
            ),
            0,
            10,
            "early",
            (
                {},
                {},
                {},
            ),
        )
    )
    now[0] += 6
    where.moved(
        StepReport(
            (
                0,
                1,
            ),
            5,
            10,
            "early",
            (
                {},
                {},
            ),
        )
    )
    where.moved(
        StepReport(
            (
                2,
                3,
                5,
            ),
            4,
            10,
            "early",
            (
                {},
                {},
                {},
            ),
        )
    )
    assert where.fraction == pytest.approx((1 + 2 * 0.5 + 3 * 0.4) / 8)
    # Six seconds for 2.2 batches, 4.8 are left.
    assert where.remaining == pytest.approx(6 * 4.8 / 2.2)
    assert where.place == "images 3-4,6/8, step 4/10"
    # A smaller group after a lack of memory begins anew; one that fails is done all the same.
    where.moved(StepReport((0,), 1, 10, "early", ({},)))
    where.scored(5)
    assert where.fraction == pytest.approx((1 + 0.1 + 0.5 + 2 * 0.4 + 1) / 8)


def test_losses_of_a_group_are_shown_as_their_mean() -> None:
    where = Position(CASE.model_copy(update={"batch_size": 2}), "none", batches=4)
    where.moved(
        StepReport(
            (
                0,
                1,
                2,
            ),
            1,
            10,
            "late",
            (
                {"a": 1.0, "b": 4.0},
                {"a": 3.0},
                {"a": float("nan")},
            ),
        )
    )
    assert where.loss_text == "a 2  b 4"
    assert where.place == "batches 1-3/4, step 1/10"


def test_plain_lines_of_two_groups_come_by_phase_and_not_by_turn(now: list[float]) -> None:
    console = Console(file=io.StringIO(), width=200)
    with PlainProgress(console, label) as display:
        display.started(CASE, 4, [])
        for step in range(1, 5):
            for group in ((0, 1), (2, 3)):
                display.step(CASE, StepReport(group, step, 4, "early" if step < 3 else "late", ({}, {})))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.split(": ")[1].split(", ")[:2] for line in lines] == [
        ["images 1-2/4", "step 1/4"],
        ["images 3-4/4", "step 1/4"],
        ["images 1-2/4", "step 3/4"],
        ["images 3-4/4", "step 3/4"],
    ]


def test_plain_lines_come_with_images_phases_and_time(now: list[float]) -> None:
    console = Console(file=io.StringIO(), width=200)
    with PlainProgress(console, label) as display:
        display.started(CASE, 2, [])
        for step in range(1, 101):
            now[0] += 0.3
            display.step(CASE, StepReport((0,), step, 100, "early" if step < 50 else "late", ({"gradient": 1 / step},)))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    # Steps 1 and 50 begin a phase; after each, ten seconds are 34 steps.
    assert [line.split(",")[1].strip() for line in lines] == ["step 1/100", "step 35/100", "step 50/100", "step 84/100"]
    assert lines[2].startswith("none: image 1/2, step 50/100, late, gradient 0.02, 0:15, ")
    assert lines[2].endswith(" left")


def test_the_live_line_shows_everything_and_leaves_a_summary(now: list[float]) -> None:
    console = Console(file=io.StringIO(), width=160, force_terminal=True, color_system=None)
    with LiveProgress(console, label) as display:
        display.started(CASE, 2, [])
        display.step(CASE, StepReport((0,), 0, 100, "early", ({"gradient": 0.5},)))
        now[0] += 25
        display.step(CASE, StepReport((0,), 50, 100, "late", ({"gradient": 0.125, "border": 2.0},)))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for word in ("none", "image 1/2, step 50/100", "0:25, 1:15 left", "late", "gradient 0.125  border 2"):
        assert word in shown


def test_a_line_of_80_columns_keeps_defense_step_time_and_bar_and_losses_before_the_phase(now: list[float]) -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with LiveProgress(console, lambda _: "stochastic-layers:spread=0.3") as display:
        display.started(CASE, 2, [])
        display.step(CASE, StepReport((0,), 0, 600, "matching", ({"gradient": 0.5},)))
        now[0] += 25
        display.step(CASE, StepReport((0,), 300, 600, "matching and prior", ({"gradient": 0.125, "border": 2.0},)))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    line = next(line for line in shown.splitlines() if "300/600" in line)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", line)
    assert len(plain.rstrip()) <= 80
    for word in ("stochastic-layers:sprea…", "━", "300/600", "1:15 left", "gradient 0.125"):
        assert word in plain
    assert plain.index("gradient") < (plain + "matching").index("matching")


def test_something_is_said_before_the_first_step() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with LiveProgress(console, label) as display:
        assert "loading data and model" in console.file.getvalue()  # type: ignore[attr-defined]
        display.started(CASE, 2, [])
        assert "none: the attack begins" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_note_is_said_once_and_quiet_says_none() -> None:
    for kind, said in ((PlainProgress, "[bold] lpips is missing\n"), (QuietProgress, "")):
        console = Console(file=io.StringIO(), width=200)
        with kind(console, label) as display:
            display.note("[bold] lpips is missing")
            display.note("[bold] lpips is missing")
        assert console.file.getvalue() == said  # type: ignore[attr-defined]


def test_a_sweep_counts_a_case_that_runs_by_its_own_pace_once_it_is_a_tenth_through(now: list[float], tmp_path: Path) -> None:
    said = io.StringIO()
    with sweep_progress(Console(file=said, width=200), SweepProgress([CASE], tmp_path), workers=1) as display:
        display.claimed(CASE)
        display.started(CASE, 2, [])
        for seconds, step in ((0, 0), (20, 1), (20, 8)):
            now[0] += seconds
            display.step(CASE, StepReport((0,), step, 10, "early", ({},)))
            display.note(f"step {step}: {cast(Any, display).text}")
    assert said.getvalue().splitlines() == [
        "step 0: 0 of 1 done, 1 running",
        "step 1: 0 of 1 done, 1 running",
        "step 8: 0 of 1 done, 1 running, 1:00 left",
    ]
