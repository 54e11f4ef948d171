"""Sweeps: each case once, failures kept, several workers and sweeps on one folder, stops that lose nothing."""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from privbench.computing.interrupt import Interrupted
from privbench.core import Case, ComputeOptions, FailedCase, StoreError
from privbench.store.case_folder import CaseFolder
from privbench.store.layout import FAILURE
from privbench.store.local import FolderStore
from privbench.store.places import locate_case
from privbench.sweep.progress import SweepProgress
from privbench.sweep.status import CaseState, state_of, survey
from privbench.sweep.work import SweepListener, SweepOptions, work
from privbench.sweep.workers import BudgetUsedError, in_processes, run_inline

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
def options(tmp_path: Path) -> SweepOptions:
    return SweepOptions(FolderStore(tmp_path / "runs"), ComputeOptions(checkpoint_interval=0.0), download=False)


def test_each_case_is_computed_once_and_reused_afterwards(small_case: Small, options: SweepOptions) -> None:
    cases = [small_case(seed=seed) for seed in (0, 1)]
    first, second = Watching(), Watching()
    work(cases, options, first)
    work(cases, options, second)
    assert (first.claims, second.claims) == ([0, 1], [])
    assert first.ends == second.ends == [(0, CaseState.DONE, None), (1, CaseState.DONE, None)]


def test_a_case_that_cannot_be_computed_is_kept_with_its_reason_and_the_others_go_on(
    small_case: Small, options: SweepOptions
) -> None:
    broken = small_case(seed=1, settings=("attack.largest_batch=0",))
    cases = [small_case(seed=0), broken, small_case(seed=2)]
    watching = Watching()
    work(cases, options, watching)
    states = [state for _, state, _ in watching.ends]
    assert states == [CaseState.DONE, CaseState.FAILED, CaseState.DONE]
    failure = FailedCase.load(options.store.working / broken.folder / FAILURE)
    assert failure.case == broken
    assert "takes at most 0 images" in failure.reason

    again = Watching()
    work(cases, options, again)
    assert again.claims == []
    CaseFolder(options.store.working, broken).forget_failure()
    work(cases, options, again)
    assert again.claims == [1]


def test_a_record_ends_a_failure(small_case: Small, options: SweepOptions) -> None:
    case = small_case()
    folder = CaseFolder(options.store.working, case)
    folder.fail("a reason")
    assert state_of(folder)[0] is CaseState.FAILED
    folder.forget_failure()
    folder.fail("another one")
    work([case], SweepOptions(options.store, download=False), Watching())
    assert not folder.record()
    folder.forget_failure()
    work([case], options, Watching())
    assert folder.record()
    assert not (folder.path / FAILURE).exists()


def test_a_sweep_waits_for_the_case_of_another_process(small_case: Small, options: SweepOptions) -> None:
    cases = [small_case(seed=0), small_case(seed=1)]
    folder = CaseFolder(options.store.working, cases[0])
    watching = Watching()
    with folder.locked():
        thread = threading.Thread(target=work, args=(cases, options, watching))
        thread.start()
        while (1, CaseState.DONE, None) not in watching.ends:
            time.sleep(0.05)
        assert (0, CaseState.RUNNING, None) in watching.ends
        assert folder.record() is None
    thread.join(60)
    assert watching.ends[-1] == (0, CaseState.DONE, None)


def test_the_end_of_another_process_case_is_told_before_the_next_case_begins(small_case: Small, options: SweepOptions) -> None:
    cases = [small_case(seed=seed) for seed in range(3)]
    folder = CaseFolder(options.store.working, cases[0])

    class Other(Watching):
        """While the second case is computed here, the process that has the first one ends it."""

        def claimed(self, case: Case) -> None:
            super().claimed(case)
            if case.seed == 1:
                folder.fail("a reason")
                lock.close()

    watching = Other()
    with ExitStack() as lock:
        lock.enter_context(folder.locked())
        work(cases, options, watching)
    running, done = (0, CaseState.RUNNING, None), [(seed, CaseState.DONE, None) for seed in (1, 2)]
    assert watching.ends == [running, done[0], (0, CaseState.FAILED, "a reason"), done[1]]


def test_a_place_that_cannot_be_written_stops_the_sweep_and_fails_no_case(small_case: Small, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    case = small_case()
    with pytest.raises(StoreError, match="is a file"):
        work([case], SweepOptions(FolderStore(tmp_path / "file" / "runs"), download=False), Watching())


def test_the_budget_stops_at_a_checkpoint(small_case: Small, options: SweepOptions) -> None:
    cases = [small_case(seed=0, limit=1, settings=("attack.steps=400", "attack.pause=0.05"))]
    with pytest.raises(BudgetUsedError):
        run_inline(cases, options, Watching(), budget=5.0)
    assert state_of(CaseFolder(options.store.working, cases[0]))[0] is CaseState.BEGUN
    assert list((options.store.working / cases[0].folder / ".work").glob("*.pt"))


def test_a_signal_stops_at_a_checkpoint(small_case: Small, options: SweepOptions) -> None:
    case = small_case(limit=1, settings=("attack.steps=400", "attack.pause=0.05"))
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(Interrupted):
        run_inline([case], options, Watching(), budget=None)
    assert state_of(CaseFolder(options.store.working, case))[0] is CaseState.BEGUN


def test_damaged_files_of_a_finished_case_are_named(small_case: Small, options: SweepOptions) -> None:
    case = small_case(limit=1)
    work([case], options, Watching())
    folder = CaseFolder(options.store.working, case)
    record = folder.record()
    assert record is not None
    assert set(record.files) >= {"case.yaml", "trace.csv"}
    assert folder.damaged(record) == []
    (folder.path / "trace.csv").write_text("changed")
    (folder.path / "case.yaml").unlink()
    assert folder.damaged(record) == ["case.yaml", "trace.csv"]


# Survey


def test_a_survey_tells_all_states(small_case: Small, options: SweepOptions) -> None:
    cases = [small_case(seed=seed) for seed in range(5)]
    options.store.working.mkdir()
    (options.store.working / "study--s--0.json").write_text(json.dumps({"name": "s", "folders": [cases[4].folder]}))
    work(cases[:1], options, Watching())
    CaseFolder(options.store.working, cases[1]).fail("a reason")
    CaseFolder(options.store.working, cases[2]).write(".work/batch-00000.json", b"{}")
    with CaseFolder(options.store.working, cases[3]).locked():
        CaseFolder(options.store.working, cases[3]).write("case.yaml", b"")
        found = {one.name: one for one in survey(options.store)}
    states = [found[case.folder].state for case in cases]
    expected = [CaseState.DONE, CaseState.FAILED, CaseState.BEGUN, CaseState.RUNNING, CaseState.WAITING]
    assert states == expected
    assert found[cases[1].folder].detail == "a reason"
    assert found[cases[2].folder].detail == "1 batches finished"


def test_a_case_is_found_by_folder_or_hash(small_case: Small, options: SweepOptions) -> None:
    case = small_case()
    work([case], options, Watching())
    found = (options.store, case.folder)
    assert locate_case(str(options.store.working / case.folder), options.store) == found
    assert locate_case(case.identity[:6], options.store) == found
    for text in ("zzz", "", "../../../etc", "/etc", str(options.store.working)):
        with pytest.raises(ValueError, match=f"no case '{text}'"):
            locate_case(text, options.store)


# The progress


def test_the_progress_counts_and_estimates(small_case: Small, tmp_path: Path) -> None:
    now = [0.0]
    cases = [small_case(seed=seed, limit=2) for seed in range(4)]
    progress = SweepProgress(cases, tmp_path, clock=lambda: now[0])
    assert progress.remaining(1) is None
    progress.claimed(cases[0])
    now[0] = 10.0
    progress.ended(cases[0], CaseState.DONE, None)
    assert progress.remaining(1) == pytest.approx(30.0)
    assert progress.remaining(2) == pytest.approx(15.0)
    progress.claimed(cases[1])
    now[0] = 14.0
    assert progress.remaining(1) == pytest.approx(26.0)
    assert progress.remaining(1, {cases[1].identity: 40.0}) == pytest.approx(60.0)
    progress.ended(cases[2], CaseState.FAILED, "no")
    assert progress.remaining(1) == pytest.approx(16.0)
    assert (progress.count(CaseState.DONE), progress.count(CaseState.FAILED), progress.count(CaseState.WAITING)) == (1, 1, 1)


# Processes


@pytest.fixture
def with_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes import the test attacks as a third party's."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "runner" / "plugin"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.nightly
@pytest.mark.usefixtures("with_plugin")
def test_processes_share_the_cases_and_a_killed_one_is_replaced(small_case: Small, options: SweepOptions) -> None:
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
    in_processes(cases, options, listener, devices=["cpu", "cpu"], budget=None)
    assert killed
    assert [state_of(CaseFolder(options.store.working, case))[0] for case in cases] == [CaseState.DONE] * 4
    assert any("signal 9" in note for note in listener.notes)
