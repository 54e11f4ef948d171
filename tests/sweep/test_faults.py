"""Faults that a long sweep must survive: kills, full disks, damaged files, rivals, bad images, clocks that jump, signals.

Whatever happens, the next sweep of the same study ends with what an undisturbed one writes.
"""

import datetime
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from privbench.analysis.leaderboard import leaderboard, leaderboard_csv
from privbench.core import Case, ComputeOptions, FailedCase, Record
from privbench.runner.listener import StepReport
from privbench.store.case_folder import CaseFolder
from privbench.store.layout import FAILURE, RECORD
from privbench.store.local import FolderStore
from privbench.sweep.status import CaseState, state_of, survey
from privbench.sweep.work import SweepListener, SweepOptions, work
from privbench.sweep.workers import BudgetUsedError, run_inline
from tests.sweep.sweeping import PLUGIN, Sweep, contents

Small = Callable[..., Case]

SHARES = [pytest.param(0.0, marks=pytest.mark.nightly), 0.5, pytest.param(0.99, marks=pytest.mark.nightly)]
"""How much of a file is left when it is truncated."""

STUDY = """
name: faults
settings: {attack: test-walk, model: test-vit, weights: random, limit: 1, attack.steps: 12, attack.pause: 0.03}
grid:
  - {defense: [none, mjp], seed: [0, 1]}
"""


def study(folder: Path, text: str = STUDY) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(text, encoding="utf-8")
    return folder


def swept(folder: Path, *arguments: str, code: int = 0, **environment: str) -> Sweep:
    """A sweep that ran to its end."""
    with Sweep(folder, *arguments, **environment) as sweep:
        assert sweep.finish() == code, (sweep.stdout, sweep.stderr)
    return sweep


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed sweep leaves."""
    folder = study(tmp_path_factory.mktemp("undisturbed"))
    swept(folder)
    return contents(folder / "out")


def assert_whole(output: Path) -> None:
    """Nothing half-written lies there, and every file is what its record says."""
    for path in output.rglob("*"):
        assert not path.name.startswith("."), path
        if path.suffix == ".json":
            json.loads(path.read_bytes())
    records = list(output.glob(f"*/{RECORD}"))
    assert records
    for path in records:
        record = Record.load(path)
        assert CaseFolder(output, record.case).damaged(record) == []


# Kills


def killed(folder: Path, moments: Sequence[float], *arguments: str) -> None:
    """Kills one sweep after the other, each so many seconds after it wrote its first file."""

    def written() -> set[tuple[str, int]]:
        return {(str(path), path.stat(follow_symlinks=False).st_mtime_ns) for path in (folder / "out").glob("*/.work")}

    for moment in moments:
        before = written()
        with Sweep(folder, *arguments) as sweep:
            # Workers need seconds to start; what one process does from its beginning on is met by kills as well.
            while sweep.running and (written() == before if arguments else not (folder / "out").exists()):
                time.sleep(0.001)
            sweep.process.join(moment)
            if sweep.running:
                os.kill(sweep.process.pid or 0, signal.SIGKILL)
                sweep.process.join()
                assert sweep.process.exitcode == -signal.SIGKILL
            sweep.wait_for_no_worker()


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


# Disks

_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


def mounts() -> bool:
    """Whether this user may mount a small file system of his own."""
    if shutil.which("unshare") is None:
        return False
    probe = ("sh", "-c", "d=$(mktemp -d) && mount -t tmpfs -o size=64k none $d && umount $d && rmdir $d")
    return subprocess.run([*_NAMESPACE, *probe], capture_output=True, check=False).returncode == 0


in_a_small_file_system = pytest.mark.skipif(not mounts(), reason="this system lets users mount nothing")

_FULL = """
mount -t tmpfs -o size=SIZE none out
"$@" >first.txt 2>&1; echo $? >>codes.txt
find out -name '.privbench-*' >leftovers.txt
mount -o remount,CHANGE out
"$@" >second.txt 2>&1; echo $? >>codes.txt
cp -r out/. kept
"""


def in_small_space(folder: Path, script: str, *arguments: str) -> list[int]:
    """Runs a script whose arguments are the command line of a sweep; what both sweeps ended with."""
    study(folder)
    (folder / "out").mkdir()
    command = [sys.executable, "-m", "privbench", "sweep", "study.yaml", "--output", "out", "--device", "cpu"]
    fast = ("--no-download", "--checkpoint-interval", "0")
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(PLUGIN)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    words = [*_NAMESPACE, "sh", "-c", script, "sh", *command, *fast, *arguments]
    subprocess.run(words, cwd=folder, env=environment, check=True, timeout=900)
    return [int(code) for code in (folder / "codes.txt").read_text().split()]


@in_a_small_file_system
@pytest.mark.nightly
@pytest.mark.parametrize(
    ("size", "jobs"),
    [
        pytest.param("120k", 1, id="one worker"),
        pytest.param("16k", 1, id="from the beginning"),
        pytest.param("120k", 2, id="two workers"),
    ],
)
def test_a_full_disk_is_one_line_and_the_sweep_goes_on_when_there_is_space(
    size: str, jobs: int, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    script = _FULL.replace("SIZE", size).replace("CHANGE", "size=20m")
    codes = in_small_space(tmp_path, script, "--jobs", str(jobs))
    said = (tmp_path / "first.txt").read_text()
    assert codes == [2, 0], said
    errors = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert "No space left on device; free the place or choose another --output" in errors[0]
    assert "Traceback" not in said
    assert (tmp_path / "leftovers.txt").read_text() == ""
    assert contents(tmp_path / "kept") == undisturbed


@in_a_small_file_system
@pytest.mark.nightly
def test_a_read_only_folder_is_one_line_and_the_sweep_goes_on_when_it_can_be_written(
    undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    script = _FULL.replace("size=SIZE none out", "size=20m none out; mount -o remount,ro out").replace("CHANGE", "rw")
    codes = in_small_space(tmp_path, script)
    said = (tmp_path / "first.txt").read_text()
    assert codes == [2, 0], said
    assert said == "Error: cannot write to out: out is read-only; choose another --output\n"
    assert contents(tmp_path / "kept") == undisturbed


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_case_stops_the_sweep_and_is_no_failed_case(small_case: Small, options: SweepOptions) -> None:
    case = small_case()
    folder = options.store.working / case.folder
    folder.mkdir(parents=True)
    folder.chmod(0o555)
    with pytest.raises(ValueError, match="Permission denied; free the place or choose another --output"):
        work([case], options, Noting())
    folder.chmod(0o755)
    work([case], options, Noting())
    assert state_of(CaseFolder(options.store.working, case))[0] is CaseState.DONE


# Damaged files


class Noting(SweepListener):
    """Keeps notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture
def options(tmp_path: Path) -> SweepOptions:
    return SweepOptions(FolderStore(tmp_path / "runs"), ComputeOptions(checkpoint_interval=0.0), download=False)


def truncated(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def without_clock(record: Record) -> str:
    images = tuple(image.model_copy(update={"seconds": 0.0}) for image in record.images)
    provenance = record.provenance.model_copy(update={"finished": "", "seconds": 0.0, "peak_memory_mib": 0.0})
    return record.model_copy(update={"images": images, "provenance": provenance}).to_json()


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
                sweep.wait_for(lambda number=number: any((tmp_path / f"machine-{number}").glob("*/.work/*.pt")))  # type: ignore[misc]
                sweep.process.join(moments.uniform(0.0, 1.2))
                sweep.process.kill()
                sweep.wait_for_no_worker()
            else:
                assert sweep.finish() == 0, (sweep.stdout, sweep.stderr)
    assert contents(there) == undisturbed
    assert_whole(there)


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


def pictures(folder: Path, names: Sequence[str]) -> None:
    folder.mkdir(parents=True)
    noise = np.random.default_rng(1)
    for name in names:
        Image.fromarray(noise.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / name)


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


# Clocks


def test_a_wall_clock_that_jumps_changes_neither_times_nor_intervals(
    small_case: Small, options: SweepOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It jumps by ten years at every look, back and forth."""
    looks = iter(range(10**9))

    def jumping() -> float:
        return 1.8e9 + (3e8 if next(looks) % 2 else -3e8)

    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Jumping":
            return cls.fromtimestamp(jumping(), tz)

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(time, "time_ns", lambda: int(jumping() * 1e9))
    monkeypatch.setattr("privbench.runner.provenance.datetime", Jumping)
    case = small_case(settings=("attack.steps=10", "attack.pause=0.02"))
    began = time.monotonic()
    run_inline([case], options, Noting(), budget=60.0)
    spent = time.monotonic() - began
    record = CaseFolder(options.store.working, case).record()
    assert record is not None
    assert next(looks) > 0
    assert all(0.2 <= image.seconds <= spent for image in record.images)
    assert 0.4 <= record.provenance.seconds <= spent

    slow = small_case(limit=1, settings=("attack.steps=1000", "attack.pause=0.05"))
    began = time.monotonic()
    with pytest.raises(BudgetUsedError):
        run_inline([slow], options, Noting(), budget=1.0)
    assert 1.0 <= time.monotonic() - began < 30
