"""Kills and signals that a long sweep must survive.

Whatever happens, the next sweep of the same study ends with what an undisturbed one writes.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sweep.faults import assert_whole, killed, study, swept
from tests.sweep.sweeping import PLUGIN, Sweep, contents

# Kills


@pytest.mark.parametrize(
    ("kills", "arguments"),
    [
        pytest.param(2, (), id="2"),
        pytest.param(20, (), id="20", marks=pytest.mark.nightly),
        pytest.param(4, ("--jobs", "2"), id="4 of two workers", marks=pytest.mark.nightly),
    ],
)
def test_kills_at_random_moments_lose_and_spoil_nothing(
    kills: int, arguments: tuple[str, ...], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    study(tmp_path)
    moments = random.Random(kills)
    killed(tmp_path, [moments.uniform(0.0, 1.2) for _ in range(kills)], *arguments)
    swept(tmp_path, *arguments)
    assert contents(tmp_path / "out") == undisturbed
    assert_whole(tmp_path / "out")


@pytest.mark.nightly
def test_workers_whose_parent_was_killed_end_soon(tmp_path: Path) -> None:
    study(tmp_path)
    with Sweep(tmp_path, "--jobs", "2", "--set", "attack.pause=0.2", "--set", "attack.steps=1000") as sweep:
        sweep.wait_for(lambda: len(list((tmp_path / "out").glob("*/.work/*.pt"))) == 2)
        assert len(sweep.workers()) >= 2
        os.kill(sweep.process.pid or 0, signal.SIGKILL)
        sweep.process.join()
        assert sweep.wait_for_no_worker() < 10


# Signals


@pytest.mark.parametrize(
    ("number", "code", "jobs"),
    [
        pytest.param(signal.SIGINT, 130, 1, id="Ctrl-C"),
        pytest.param(signal.SIGTERM, 143, 1, id="SIGTERM", marks=pytest.mark.nightly),
        pytest.param(signal.SIGINT, 130, 2, id="Ctrl-C, two workers", marks=pytest.mark.nightly),
        pytest.param(signal.SIGTERM, 143, 2, id="SIGTERM, two workers", marks=pytest.mark.nightly),
    ],
)
def test_a_signal_stops_a_sweep_which_then_continues(
    number: signal.Signals, code: int, jobs: int, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    study(tmp_path)
    with Sweep(tmp_path, "--jobs", str(jobs)) as sweep:
        sweep.wait_for(lambda: any((tmp_path / "out").glob("*/.work/*.pt")))
        os.kill(sweep.process.pid or 0, number)
        assert sweep.finish(60) == code
        sweep.wait_for_no_worker(5)
        assert "interrupted; repeat the command to continue" in sweep.stdout
        assert "Traceback" not in sweep.stderr
    assert not list((tmp_path / "out").rglob(".lock"))
    swept(tmp_path, "--jobs", str(jobs))
    assert contents(tmp_path / "out") == undisturbed


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_the_study_is_read_is_no_different(number: signal.Signals, code: int, tmp_path: Path) -> None:
    # So many cases that reading the study takes seconds.
    grid = f"{{defense: [none], attack.steps: [1, 2, 3], seed: {list(range(15_000))}}}"
    settings = "{attack: test-walk, model: test-vit, weights: random, limit: 1}"
    (tmp_path / "study.yaml").write_text(f"name: large\nsettings: {settings}\ngrid: {grid}\n", encoding="utf-8")
    with Sweep(tmp_path) as sweep:
        sweep.wait_for(lambda: used(sweep.process.pid) > 1.0)
        os.kill(sweep.process.pid or 0, number)
        assert sweep.finish(30) == code
        assert sweep.stdout == "interrupted; repeat the command to continue\n"
        assert sweep.stderr == ""
    assert not (tmp_path / "out").exists()


def used(process: int | None) -> float:
    """Processor seconds that a process has used."""
    ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11]
    return int(ticks) / os.sysconf("SC_CLK_TCK")


@pytest.mark.nightly
def test_a_ctrl_c_in_the_terminal_while_workers_start_leaves_no_traceback(tmp_path: Path) -> None:
    """The terminal sends it to the whole process group, also to workers that have just been started."""
    study(tmp_path)
    command = [sys.executable, "-m", "privbench", "sweep", "study.yaml", "--jobs", "2", "--device", "cpu", "--no-download"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), str(PLUGIN)])}
    process = subprocess.Popen(
        [*command, "--output", "out"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    # Two workers and multiprocessing's own helper.
    while len(children.read_text().split()) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted; repeat the command to continue" in stdout
    assert "Traceback" not in stderr, stderr
