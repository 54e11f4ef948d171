"""A killed process loses nothing that it had saved; what the next one makes of it equals an uninterrupted run, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PLUGIN = Path(__file__).parent / "plugin"

WALK = ("--attack", "test-walk", "--set", "attack.steps=20", "--set", "attack.pause=0.05")
GROUP_WALK = ("--attack", "test-group-walk", "--set", "attack.steps=20", "--set", "attack.pause=0.05")
GRADVIT = ("--attack", "gradvit", "--preset", "quick", "--set", "attack.steps=60", "--set", "attack.bn_prior=2e-5")


def start(output: Path, *arguments: str, interpreter: tuple[str, ...] = ("-m", "privbench")) -> subprocess.Popen[str]:
    words = ("run", "--defense", "mjp", "--weights", "random", "--limit", "2", "--device", "cpu", "--no-download")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(PLUGIN)]), "OMP_NUM_THREADS": "1"}
    command = (sys.executable, *interpreter, *words, "--checkpoint-interval", "0", "--output", str(output), *arguments)
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=600)
    return process.returncode, stdout, stderr


def wait_for(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise TimeoutError


def files(output: Path) -> dict[str, bytes]:
    """Everything that a run leaves, the record without what a clock or a machine decides."""
    found = {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}
    for name in found:
        if name.endswith("record.json"):
            record: dict[str, Any] = json.loads(found[name])
            del record["provenance"]
            for image in record["images"]:
                del image["seconds"]
            found[name] = json.dumps(record).encode()
    return found


def states(output: Path, first: int, size: int = 1) -> bool:
    return any(output.glob(f"*/.work/batches-{first:05d}-{first + size - 1:05d}.pt"))


def killed_and_continued(output: Path, attack: tuple[str, ...], groups: tuple[tuple[int, int], ...]) -> None:
    """Kills one process after the other, each in the middle of a group, and lets the last one finish."""
    for group in groups:
        process = start(output, *attack)
        wait_for(process, lambda group=group: states(output, *group))  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        assert finish(process)[0] == -signal.SIGKILL
        assert not list(output.rglob("record.json"))
    code, _, stderr = finish(start(output, *attack))
    assert code == 0, stderr


@pytest.mark.parametrize(
    ("attack", "groups"),
    [
        pytest.param(WALK, ((1, 1),), id="test-walk", marks=pytest.mark.nightly),
        pytest.param(GROUP_WALK, ((0, 2),), id="test-group-walk", marks=pytest.mark.nightly),
        pytest.param(GRADVIT, ((0, 2), (0, 2)), id="gradvit", marks=pytest.mark.nightly),
        pytest.param((*GRADVIT, "--group", "1"), ((0, 1), (1, 1)), id="gradvit alone", marks=pytest.mark.nightly),
    ],
)
def test_a_killed_run_continues_to_the_same_result(
    attack: tuple[str, ...], groups: tuple[tuple[int, int], ...], tmp_path: Path
) -> None:
    whole = start(tmp_path / "whole", *attack)
    killed_and_continued(tmp_path / "cut", attack, groups)
    code, _, stderr = finish(whole)
    assert code == 0, stderr
    expected = files(tmp_path / "whole")
    animated = {"comparison.webp"} if attack[: len(GRADVIT)] == GRADVIT else set()  # a walk shows no pictures on its way
    assert {Path(name).name for name in expected} == animated | {
        "record.json",
        "case.yaml",
        "trace.csv",
        "comparison.png",
        "astronaut.png",
        "chelsea.png",
    }
    assert files(tmp_path / "cut") == expected


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        *(pytest.param(*pair, marks=pytest.mark.nightly) for pair in ((signal.SIGTERM, 143), (signal.SIGHUP, 129))),
    ],
)
def test_a_signal_saves_says_how_to_continue_and_exits(number: signal.Signals, code: int, tmp_path: Path) -> None:
    # So slow and with checkpoints so rare that only the signal's own checkpoint can have been made.
    rare = (*WALK, "--checkpoint-interval", "1000")
    process = start(tmp_path, *rare, "--quiet")
    wait_for(process, lambda: any(tmp_path.glob("*/case.yaml")))
    time.sleep(0.5)
    process.send_signal(number)
    returned, stdout, stderr = finish(process)
    assert returned == code
    assert stdout == ""
    (line,) = [line for line in stderr.splitlines() if "n/a" not in line]
    assert line == f"Interrupted: what is done is kept in {tmp_path}; repeat the command to continue"
    assert states(tmp_path, 0)
    assert not list(tmp_path.rglob("record.json"))


PHASES = {
    "loading": ("privbench.runner.context", "load_victim"),
    "observing": ("privbench.runner.context", "observe"),
    "scoring": ("privbench.runner.image_results", "score_batch"),
    "drawing": ("privbench.plots.case_pictures", "draw_case"),
}
"""Phase to a function that is called in it, in the module that calls it."""


def slow_in(phase: str, marker: Path) -> str:
    """The command line, but for a function of a phase that says when it is called and takes its time."""
    module, name = PHASES[phase]
    return (
        f"import sys, time, pathlib, {module} as room; from privbench.cli import main; whole = room.{name}; "
        f"slow = lambda *a, **k: (pathlib.Path({str(marker)!r}).touch(), time.sleep(60), whole(*a, **k))[-1]; "
        f"room.{name} = slow; main(sys.argv[1:], prog_name='privbench')"
    )


@pytest.mark.nightly
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_every_phase_and_the_case_goes_on(phase: str, number: signal.Signals, code: int, tmp_path: Path) -> None:
    output, marker = tmp_path / "out", tmp_path / "marker"
    short = ("--attack", "test-walk", "--set", "attack.steps=2")
    process = start(output, *short, interpreter=("-c", slow_in(phase, marker)))
    wait_for(process, marker.exists)
    sent = time.monotonic()
    process.send_signal(number)
    returned, stdout, stderr = finish(process)
    assert (returned, stdout) == (code, "")
    assert time.monotonic() - sent < 30
    assert stderr.splitlines()[-1] == f"Interrupted: what is done is kept in {output}; repeat the command to continue"
    assert not list(output.rglob("record.json"))
    code, _, stderr = finish(start(output, *short))
    assert code == 0, stderr
    assert len(list(output.rglob("record.json"))) == 1
