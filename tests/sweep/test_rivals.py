"""Several processes and machines on one study: every case is computed once.

Whatever happens, the next sweep of the same study ends with what an undisturbed one writes.
"""

import random
from collections import Counter
from pathlib import Path

import pytest

from tests.sweep.faults import assert_whole, study
from tests.sweep.sweeping import Sweep, contents

# Rivals


@pytest.mark.parametrize(("rivals", "arguments"), [(2, ()), pytest.param(4, ("--jobs", "2"), marks=pytest.mark.nightly)])
def test_rivals_on_one_study_compute_every_case_once(
    rivals: int, arguments: tuple[str, ...], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    study(tmp_path)
    log = tmp_path / "log.txt"
    sweeps = [Sweep(tmp_path, *arguments, PRIVBENCH_TEST_LOG=str(log)) for _ in range(rivals)]
    assert [sweep.finish() for sweep in sweeps] == [0] * rivals
    assert all("4 of 4 cases done" in sweep.stdout for sweep in sweeps)
    runs = Counter(log.read_text().splitlines())
    assert len(runs) == 4
    assert set(runs.values()) == {1}
    assert contents(tmp_path / "out") == undisturbed


# URLs


def test_two_shards_at_one_url_with_a_working_folder_each_compute_every_case_once(
    undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    study(tmp_path)
    log = tmp_path / "log.txt"
    url = ("--output", f"file://{tmp_path}/there/runs")
    sweeps = [
        Sweep(
            tmp_path,
            *url,
            *("--scratch", str(tmp_path / f"machine-{number}")),
            *("--shard", f"{number}/2"),
            PRIVBENCH_TEST_LOG=str(log),
        )
        for number in (1, 2)
    ]
    assert [sweep.finish() for sweep in sweeps] == [0, 0], [sweep.stderr for sweep in sweeps]
    assert all("2 of 2 cases done" in sweep.stdout for sweep in sweeps)
    runs = Counter(log.read_text().splitlines())
    assert len(runs) == 4
    assert set(runs.values()) == {1}
    there = contents(tmp_path / "there" / "runs")
    cases = [{name: file for name, file in found.items() if "study--" not in name} for found in (there, undisturbed)]
    assert cases[0] == cases[1]
    assert_whole(tmp_path / "there" / "runs")


@pytest.mark.parametrize(
    ("kills", "arguments"),
    [
        pytest.param(1, (), id="1"),
        pytest.param(8, (), id="8", marks=pytest.mark.nightly),
        pytest.param(4, ("--jobs", "2"), id="4 of two workers", marks=pytest.mark.nightly),
    ],
)
def test_machines_that_die_leave_their_cases_at_a_url_to_others(
    kills: int, arguments: tuple[str, ...], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """Each sweep has a working folder of its own, which nobody sees again."""
    study(tmp_path)
    there = tmp_path / "there" / "runs"
    moments = random.Random(kills)
    for number in range(kills + 1):
        machine = ("--scratch", str(tmp_path / f"machine-{number}"))
        with Sweep(tmp_path, "--output", f"file://{there}", *machine, *arguments) as sweep:
            if number < kills:
                work = tmp_path / f"machine-{number}"
                # Where cases are quick they are all done before the last machine begins.
                sweep.wait_for(lambda work=work, sweep=sweep: not sweep.running or any(work.glob("*/.work/*.pt")))  # type: ignore[misc]
                sweep.process.join(moments.uniform(0.0, 1.2))
                sweep.process.kill()
                sweep.wait_for_no_worker()
            else:
                assert sweep.finish() == 0, (sweep.stdout, sweep.stderr)
    assert contents(there) == undisturbed
    assert_whole(there)
