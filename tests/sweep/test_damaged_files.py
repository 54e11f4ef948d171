"""Files that are truncated, images that are damaged, attacks that break: each costs what it must and no more.

Whatever happens, the next sweep of the same study ends with what an undisturbed one writes.
"""

import os
import shutil
import signal
from pathlib import Path

import pytest

from privbench.analysis.leaderboard import leaderboard, leaderboard_csv
from privbench.core import Case, FailedCase, Record
from privbench.runner.listener import StepReport
from privbench.store.case_folder import CaseFolder
from privbench.store.layout import FAILURE, RECORD
from privbench.store.local import FolderStore
from privbench.sweep.status import CaseState, state_of, survey
from privbench.sweep.work import SweepOptions, work
from privbench.sweep.workers import run_inline
from tests.sweep.faults import SHARES, Noting, Small, pictures, study, swept, truncated, without_clock

# Damaged files


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize(
    ("kind", "words"), [("*.pt", "the checkpoint"), ("batch-*.json", "the batch")], ids=["checkpoint", "batch"]
)
def test_what_was_kept_of_an_interrupted_case_is_not_trusted_when_it_is_truncated(
    kind: str, words: str, share: float, small_case: Small, options: SweepOptions, tmp_path: Path
) -> None:
    case = small_case(settings=("attack.steps=30", "attack.pause=0.01"))
    whole = SweepOptions(FolderStore(tmp_path / "whole"), download=False)
    work([case], whole, Noting())

    class Stopping(Noting):
        """Ends the time in the middle of the second image."""

        def step(self, case: Case, at: StepReport) -> None:
            if at.batches == (1,) and at.step == 15:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        run_inline([case], options, Stopping(), budget=None)
    (path,) = (options.store.working / case.folder / ".work").glob(kind)
    truncated(path, share)
    noting = Noting()
    work([case], options, noting)
    (line,) = [note for note in noting.notes if words in note]
    assert "is damaged" in line
    assert "\n" not in line
    found, expected = (CaseFolder(one.store.working, case).record() for one in (options, whole))
    assert found is not None
    assert expected is not None
    assert without_clock(found) == without_clock(expected)


@pytest.mark.parametrize("share", SHARES)
def test_a_truncated_record_is_computed_again(share: float, small_case: Small, options: SweepOptions) -> None:
    case = small_case()
    work([case], options, Noting())
    path = options.store.working / case.folder / RECORD
    before = Record.load(path)
    truncated(path, share)
    noting = Noting()
    work([case], options, noting)
    assert any("is damaged or of another version; the case is computed again" in note for note in noting.notes)
    assert without_clock(Record.load(path)) == without_clock(before)


@pytest.mark.parametrize("share", SHARES)
def test_a_truncated_failure_is_no_failure(share: float, small_case: Small, options: SweepOptions) -> None:
    case = small_case()
    CaseFolder(options.store.working, case).fail("a reason")
    truncated(options.store.working / case.folder / FAILURE, share)
    assert [one.state for one in survey(options.store)] == [CaseState.WAITING]
    work([case], options, Noting())
    assert [one.state for one in survey(options.store)] == [CaseState.DONE]
    assert not (options.store.working / case.folder / FAILURE).exists()


def test_a_truncated_plan_is_named_and_written_anew(tmp_path: Path) -> None:
    study(tmp_path)
    swept(tmp_path)
    (plan,) = (tmp_path / "out").glob("study--*.json")
    before = plan.read_bytes()
    truncated(plan, 0.5)
    with pytest.raises(ValueError, match="is damaged; repeat the sweep, which writes it anew"):
        survey(FolderStore(tmp_path / "out"))
    (tmp_path / "out" / ".privbench-of-somebody-else").touch()
    swept(tmp_path)
    assert plan.read_bytes() == before
    assert len(survey(FolderStore(tmp_path / "out"))) == 4


# Attacks and images that go wrong


def test_a_loss_that_is_not_finite_and_a_full_memory_are_rows_with_failed_images_and_the_reason(
    small_case: Small, options: SweepOptions
) -> None:
    cases = [small_case(attack="test-failing", settings=(f"attack.how={how}",)) for how in ("loss", "memory")]
    work(cases, options, Noting())
    reasons = [Record.load(options.store.working / case.folder / RECORD).images[0].failure for case in cases]
    assert reasons == [
        "the loss mean is not finite",
        "OutOfMemoryError: out of memory, tried to allocate 2 GiB",
    ]
    rows = leaderboard(options.store.working)
    assert rows["failures"].tolist() == [2, 2]
    assert rows["psnr_mean"].tolist() == [0.0, 0.0]
    assert set(rows["flags"]) == {"failed-images random-weights"}
    text = leaderboard_csv(rows).lower()
    assert "nan" not in text.replace("nano", "")
    assert "inf" not in text.replace("info", "")


def test_an_image_that_is_damaged_while_a_sweep_runs_fails_its_case_alone(
    small_case: Small, options: SweepOptions, tmp_path: Path
) -> None:
    pictures(tmp_path / "data", ["a.png", "b.png"])
    cases = [small_case(data=str(tmp_path / "data"), limit=None, indices=index) for index in ("0", "1")]
    truncated(tmp_path / "data" / "a.png", 0.5)
    work(cases, options, Noting())
    states = [state_of(CaseFolder(options.store.working, case)) for case in cases]
    assert [state for state, _ in states] == [CaseState.FAILED, CaseState.DONE]
    failure = states[0][1]
    assert isinstance(failure, FailedCase)
    assert f"cannot decode the image {tmp_path / 'data' / 'a.png'}" in failure.reason


IMAGES = """
name: images
settings: {attack: test-walk, model: test-vit, weights: random, defense: none, data: DATA}
grid:
  - {indices: ["0", "1", "2"]}
"""


def test_a_damaged_image_costs_a_study_only_the_cases_that_need_it(tmp_path: Path) -> None:
    pictures(tmp_path / "data", ["a.png", "b.png", "c.png"])
    truncated(tmp_path / "data" / "b.png", 0.5)
    study(tmp_path, IMAGES.replace("DATA", str(tmp_path / "data")))
    first = swept(tmp_path, code=1)
    assert first.stdout.count("unreadable: the case of ") == 1
    assert f"cannot decode the image {tmp_path / 'data' / 'b.png'}" in first.stdout
    assert "2 of 2 cases done" in first.stdout
    pictures(tmp_path / "again", ["a.png", "b.png", "c.png"])
    shutil.copy(tmp_path / "again" / "b.png", tmp_path / "data" / "b.png")
    assert "3 of 3 cases done" in swept(tmp_path).stdout
