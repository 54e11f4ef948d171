"""Sweeps: each case once, failures kept, several workers and sweeps on one folder, stops that lose nothing."""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from privbench.core import Case, FailedCase, StoreError
from privbench.runner.interrupt import Interrupted
from privbench.store.folder import FAILURE, CaseFolder
from privbench.sweep.survey import find_case, survey
from privbench.sweep.work import CaseState, Ledger, SweepListener, Way, state_of, work
from privbench.sweep.workers import BudgetUsedError, alone, in_processes

Small = Callable[..., Case]


class Watching(SweepListener):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.claims: list[int] = []
        self.ends: list[tuple[int, CaseState, str | None]] = []
        self.notes: list[str] = []

    def claimed(self, case: Case) -> None:
        self.claims.append(case.seed)

    def ended(self, case: Case, state: CaseState, reason: str | None) -> None:
        self.ends.append((case.seed, state, reason))

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture
def way(tmp_path: Path) -> Way:
    return Way(output=tmp_path / "runs", download=False, checkpoint_interval=0.0)


def test_each_case_is_computed_once_and_reused_afterwards(small_case: Small, way: Way) -> None:
    cases = [small_case(seed=seed) for seed in (0, 1)]
    first, second = Watching(), Watching()
    work(cases, way, first)
    work(cases, way, second)
    assert (first.claims, second.claims) == ([0, 1], [])
    assert first.ends == second.ends == [(0, CaseState.DONE, None), (1, CaseState.DONE, None)]


def test_a_case_that_cannot_be_computed_is_kept_with_its_reason_and_the_others_go_on(small_case: Small, way: Way) -> None:
    broken = small_case(seed=1, settings=("attack.largest_batch=0",))
    cases = [small_case(seed=0), broken, small_case(seed=2)]
    watching = Watching()
    work(cases, way, watching)
    states = [state for _, state, _ in watching.ends]
    assert states == [CaseState.DONE, CaseState.FAILED, CaseState.DONE]
    failure = FailedCase.load(way.output / broken.folder / FAILURE)
    assert failure.case == broken
    assert "takes at most 0 images" in failure.reason

    again = Watching()
    work(cases, way, again)
    assert again.claims == []
    CaseFolder(way.output, broken).forget_failure()
    work(cases, way, again)
    assert again.claims == [1]


def test_a_record_ends_a_failure(small_case: Small, way: Way) -> None:
    case = small_case()
    folder = CaseFolder(way.output, case)
    folder.fail("a reason")
    assert state_of(folder)[0] is CaseState.FAILED
    folder.forget_failure()
    folder.fail("another one")
    work([case], Way(output=way.output, download=False), Watching())
    assert not folder.record()
    folder.forget_failure()
    work([case], way, Watching())
    assert folder.record()
    assert not (folder.path / FAILURE).exists()


def test_a_sweep_waits_for_the_case_of_another_process(small_case: Small, way: Way) -> None:
    cases = [small_case(seed=0), small_case(seed=1)]
    folder = CaseFolder(way.output, cases[0])
    watching = Watching()
    with folder.locked():
        thread = threading.Thread(target=work, args=(cases, way, watching))
        thread.start()
        while (1, CaseState.DONE, None) not in watching.ends:
            time.sleep(0.05)
        assert (0, CaseState.RUNNING, None) in watching.ends
        assert folder.record() is None
    thread.join(60)
    assert watching.ends[-1] == (0, CaseState.DONE, None)


def test_a_place_that_cannot_be_written_stops_the_sweep_and_fails_no_case(small_case: Small, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    case = small_case()
    with pytest.raises(StoreError, match="is a file"):
        work([case], Way(output=tmp_path / "file" / "runs", download=False), Watching())


def test_the_budget_stops_at_a_checkpoint(small_case: Small, way: Way) -> None:
    cases = [small_case(seed=0, limit=1, settings=("attack.steps=400", "attack.pause=0.05"))]
    with pytest.raises(BudgetUsedError):
        alone(cases, way, Watching(), budget=1.0)
    assert state_of(CaseFolder(way.output, cases[0]))[0] is CaseState.BEGUN
    assert list((way.output / cases[0].folder / ".work").glob("*.pt"))


def test_a_signal_stops_at_a_checkpoint(small_case: Small, way: Way) -> None:
    case = small_case(limit=1, settings=("attack.steps=400", "attack.pause=0.05"))
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(Interrupted):
        alone([case], way, Watching(), budget=None)
    assert state_of(CaseFolder(way.output, case))[0] is CaseState.BEGUN


def test_damaged_files_of_a_finished_case_are_named(small_case: Small, way: Way) -> None:
    case = small_case(limit=1)
    work([case], way, Watching())
    folder = CaseFolder(way.output, case)
    record = folder.record()
    assert record is not None
    assert set(record.files) >= {"case.yaml", "trace.csv"}
    assert folder.damaged(record) == []
    (folder.path / "trace.csv").write_text("changed")
    (folder.path / "case.yaml").unlink()
    assert folder.damaged(record) == ["case.yaml", "trace.csv"]


# Survey


def test_a_survey_tells_all_states(small_case: Small, way: Way) -> None:
    cases = [small_case(seed=seed) for seed in range(5)]
    way.output.mkdir()
    (way.output / "study--s--0.json").write_text(json.dumps({"name": "s", "folders": [cases[4].folder]}))
    work(cases[:1], way, Watching())
    CaseFolder(way.output, cases[1]).fail("a reason")
    CaseFolder(way.output, cases[2]).write(".work/batch-00000.json", b"{}")
    with CaseFolder(way.output, cases[3]).locked():
        CaseFolder(way.output, cases[3]).write("case.yaml", b"")
        found = {one.path.name: one for one in survey(way.output)}
    states = [found[case.folder].state for case in cases]
    expected = [CaseState.DONE, CaseState.FAILED, CaseState.BEGUN, CaseState.RUNNING, CaseState.WAITING]
    assert states == expected
    assert found[cases[1].folder].detail == "a reason"
    assert found[cases[2].folder].detail == "1 batches finished"


def test_a_case_is_found_by_folder_or_hash(small_case: Small, way: Way) -> None:
    case = small_case()
    work([case], way, Watching())
    path = way.output / case.folder
    assert find_case(str(path), way.output) == find_case(case.identity[:6], way.output) == path
    with pytest.raises(ValueError, match="no case 'zzz'"):
        find_case("zzz", way.output)


# The ledger


def test_the_ledger_counts_and_estimates(small_case: Small, tmp_path: Path) -> None:
    now = [0.0]
    cases = [small_case(seed=seed, limit=2) for seed in range(4)]
    ledger = Ledger(cases, tmp_path, clock=lambda: now[0])
    assert ledger.remaining(1) is None
    ledger.claimed(cases[0])
    now[0] = 10.0
    ledger.ended(cases[0], CaseState.DONE, None)
    assert ledger.remaining(1) == pytest.approx(30.0)
    assert ledger.remaining(2) == pytest.approx(15.0)
    ledger.claimed(cases[1])
    now[0] = 14.0
    assert ledger.remaining(1) == pytest.approx(26.0)
    ledger.ended(cases[2], CaseState.FAILED, "no")
    assert ledger.remaining(1) == pytest.approx(16.0)
    assert (ledger.count(CaseState.DONE), ledger.count(CaseState.FAILED), ledger.count(CaseState.WAITING)) == (1, 1, 1)


# Processes


@pytest.fixture
def with_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes import the test attacks as a third party's."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "run" / "plugin"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.slow
@pytest.mark.usefixtures("with_plugin")
def test_processes_share_the_cases_and_a_killed_one_is_replaced(small_case: Small, way: Way) -> None:
    cases = [small_case(seed=seed, limit=1, settings=("attack.steps=20", "attack.pause=0.02")) for seed in range(4)]
    killed: list[int] = []

    class Killing(Watching):
        """Kills a worker when the first case is claimed, as the kernel does that has no memory left."""

        def claimed(self, case: Case) -> None:
            super().claimed(case)
            if not killed:
                victim = multiprocessing.active_children()[0]
                assert victim.pid is not None
                killed.append(victim.pid)
                os.kill(victim.pid, signal.SIGKILL)

    listener = Killing()
    in_processes(cases, way, listener, devices=["cpu", "cpu"], budget=None)
    assert killed
    assert [state_of(CaseFolder(way.output, case))[0] for case in cases] == [CaseState.DONE] * 4
    assert any("signal 9" in note for note in listener.notes)
