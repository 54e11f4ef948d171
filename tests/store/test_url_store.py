"""A URL as a store: what is published and in which order, what is computed again, what is refused."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from privbench.analysis.leaderboard import leaderboard, leaderboard_csv
from privbench.core import ENSEMBLES, Case, ComputeOptions, Ensemble, FailedCase, Record, StoreError
from privbench.runner.listener import StepReport
from privbench.store.case_folder import CaseFolder
from privbench.store.layout import FAILURE, RECORD
from privbench.store.local import FolderStore
from privbench.store.places import locate_case
from privbench.store.url import UrlStore
from privbench.sweep.status import CaseState, state_in, survey
from privbench.sweep.work import SweepListener, SweepOptions, work
from privbench.sweep.workers import run_inline
from tests.sweep.sweeping import contents

pytestmark = pytest.mark.integration

Small = Callable[..., Case]


@pytest.fixture(autouse=True)
def empty_memory() -> Iterator[None]:
    """fsspec's memory is one for the whole process."""
    MemoryFileSystem.store.clear()
    yield
    MemoryFileSystem.store.clear()


@pytest.fixture(params=["file", pytest.param("memory", marks=pytest.mark.nightly)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://runs" if request.param == "memory" else f"file://{tmp_path}/there/runs"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What the walks that ran so far did: `begun` or `continued`."""
    path = tmp_path / "log.txt"
    path.touch()
    monkeypatch.setenv("PRIVBENCH_TEST_LOG", str(path))
    return lambda: [line.split()[0] for line in path.read_text().splitlines()]


def options(url: str, scratch: Path) -> SweepOptions:
    """As a machine with this working folder would work."""
    return SweepOptions(UrlStore(url, scratch), ComputeOptions(checkpoint_interval=0.0), download=False)


def everything_at(url: str) -> dict[str, bytes]:
    with UrlStore(url).open() as copy:
        return contents(copy)


def without_clock(record: Record) -> str:
    images = tuple(image.model_copy(update={"seconds": 0.0}) for image in record.images)
    provenance = record.provenance.model_copy(update={"finished": "", "seconds": 0.0, "peak_memory_mib": 0.0})
    return record.model_copy(update={"images": images, "provenance": provenance}).to_json()


class Ends(SweepListener):
    """Keeps what became of the cases."""

    def __init__(self) -> None:
        self.states: list[CaseState] = []

    def ended(self, case: Case, state: CaseState, reason: str | None) -> None:
        self.states.append(state)


# Publishing


def test_a_sweep_publishes_what_a_local_store_holds_and_computes_nothing_twice(
    url: str, small_case: Small, log: Callable[[], list[str]], tmp_path: Path
) -> None:
    cases = [small_case(limit=1, defense=defense) for defense in ("none", "mjp")]
    work(cases, SweepOptions(FolderStore(tmp_path / "local"), download=False), SweepListener())
    first = options(url, tmp_path / "first")
    work(cases, first, SweepListener())
    assert everything_at(url) == contents(tmp_path / "local")
    assert not list(first.store.working.glob("*--*")), "what is published leaves the working folder"
    with UrlStore(url).open(everything=False) as copy:
        assert sorted(path.name for path in copy.rglob("*") if path.is_file()) == [RECORD, RECORD]
        rows = [leaderboard(folder).drop(columns="seconds_per_image") for folder in (copy, tmp_path / "local")]
        assert leaderboard_csv(rows[0]) == leaderboard_csv(rows[1])

    assert log() == ["begun"] * 4
    for scratch in ("first", "second"):
        ends = Ends()
        work(cases, options(url, tmp_path / scratch), ends)
        assert ends.states == [CaseState.DONE] * 2
    assert log() == ["begun"] * 4


@pytest.mark.nightly
def test_an_ensemble_is_published_with_its_members(url: str, small_case: Small, tmp_path: Path) -> None:
    ENSEMBLES.register("test-of-one", Ensemble("For a test.", ("test-walk",)))
    try:
        case = small_case(attack="test-of-one", defense="none", limit=1)
        work([case], SweepOptions(FolderStore(tmp_path / "local"), download=False), SweepListener())
        work([case], options(url, tmp_path / "scratch"), SweepListener())
    finally:
        ENSEMBLES.unregister("test-of-one")
    found, expected = everything_at(url), contents(tmp_path / "local")
    assert any("/members/" in name for name in found)
    for one in (found, expected):
        assert one.pop(f"{case.folder}/{RECORD}"), "it has the members' times"
    assert found == expected


@pytest.mark.parametrize("damage", ["no record", "half a record"])
def test_an_upload_that_was_cut_off_is_computed_again(
    damage: str, url: str, small_case: Small, log: Callable[[], list[str]], tmp_path: Path
) -> None:
    case = small_case(limit=1)
    work([case], options(url, tmp_path / "first"), SweepListener())
    whole = everything_at(url)
    name = f"{case.folder}/{RECORD}"
    content = UrlStore(url).read(name)
    assert content is not None
    if damage == "no record":
        fsspec.open(f"{url}/{name}").fs.rm_file(f"{fsspec.core.url_to_fs(url)[1]}/{name}")
    else:
        UrlStore(url).write({name: content[: len(content) // 2]})
    assert UrlStore(url).find(case) is None
    work([case], options(url, tmp_path / "second"), SweepListener())
    assert log() == ["begun"] * 2
    assert everything_at(url) == whole


def test_a_case_that_was_finished_and_not_published_is_published_without_being_computed(
    url: str, small_case: Small, log: Callable[[], list[str]], tmp_path: Path
) -> None:
    case = small_case(limit=1)
    one = options(url, tmp_path / "scratch")
    work([case], SweepOptions(FolderStore(one.store.working), download=False), SweepListener())
    work([case], one, SweepListener())
    assert log() == ["begun"]
    assert isinstance(UrlStore(url).find(case), Record)


@pytest.mark.parametrize("replace", [False, True])
def test_the_first_record_stays_unless_it_is_to_be_replaced(replace: bool, url: str, small_case: Small, tmp_path: Path) -> None:
    case = small_case(limit=1)
    slow, fast = options(url, tmp_path / "slow"), options(url, tmp_path / "fast")
    work([case], SweepOptions(FolderStore(slow.store.working), download=False), SweepListener())
    late = (slow.store.working / case.folder / RECORD).read_bytes()
    work([case], fast, SweepListener())
    first = UrlStore(url).read(f"{case.folder}/{RECORD}")
    assert first not in {None, late}, "they differ in their times"
    slow.store.publish(case, replace=replace)
    assert UrlStore(url).read(f"{case.folder}/{RECORD}") == (late if replace else first)
    assert not list(slow.store.working.glob("*--*"))


def test_a_failed_case_is_kept_with_its_reason_and_tried_again_on_request(url: str, small_case: Small, tmp_path: Path) -> None:
    case = small_case(limit=1, settings=("attack.largest_batch=0",))
    work([case], options(url, tmp_path / "first"), SweepListener())
    failure = UrlStore(url).find(case)
    assert isinstance(failure, FailedCase)
    assert "takes at most 0 images" in failure.reason
    claimed: list[Case] = []

    class Noting(Ends):
        def claimed(self, case: Case) -> None:
            claimed.append(case)

    ends = Noting()
    work([case], options(url, tmp_path / "second"), ends)
    assert (ends.states, claimed) == ([CaseState.FAILED], [])
    UrlStore(url).forget_failure(case)
    work([case], options(url, tmp_path / "second"), ends)
    assert claimed == [case]


# Continuing


def test_a_stopped_case_continues_in_its_working_folder_and_nothing_of_it_is_published(
    url: str, small_case: Small, log: Callable[[], list[str]], tmp_path: Path
) -> None:
    case = small_case(settings=("attack.steps=30", "attack.pause=0.01"))
    work([case], SweepOptions(FolderStore(tmp_path / "whole"), download=False), SweepListener())

    class Stopping(SweepListener):
        """Ends the time in the middle of the second image."""

        def step(self, case: Case, at: StepReport) -> None:
            if at.batches == (1,) and at.step == 15:
                os.kill(os.getpid(), signal.SIGTERM)

    machine = options(url, tmp_path / "scratch")
    with pytest.raises(KeyboardInterrupt):
        run_inline([case], machine, Stopping(), budget=None)
    assert everything_at(url) == {}
    assert state_in(machine.store, case)[0] is CaseState.BEGUN
    work([case], machine, SweepListener())
    assert log() == ["begun", "begun", "begun", "begun", "continued"]
    assert everything_at(url) == contents(tmp_path / "whole")
    found, expected = UrlStore(url).find(case), CaseFolder(tmp_path / "whole", case).record()
    assert isinstance(found, Record)
    assert expected is not None
    assert without_clock(found) == without_clock(expected)


def test_a_case_that_another_process_of_this_machine_computes_is_running(url: str, small_case: Small, tmp_path: Path) -> None:
    case = small_case(limit=1)
    machine = options(url, tmp_path / "scratch")
    with CaseFolder(machine.store.working, case).locked():
        assert state_in(machine.store, case) == (CaseState.RUNNING, None)
    assert state_in(machine.store, case) == (CaseState.WAITING, None)


def test_a_record_is_published_after_all_other_files(url: str, small_case: Small, tmp_path: Path) -> None:
    case = small_case(limit=1)
    written: list[str] = []

    class Watched(UrlStore):
        def write(self, files: Mapping[str, bytes]) -> None:
            written.extend(files)
            super().write(files)

    work([case], SweepOptions(Watched(url, tmp_path / "scratch"), download=False), SweepListener())
    assert len(written) > 3
    assert written.index(f"{case.folder}/{RECORD}") == len(written) - 1


def test_a_url_lists_and_opens_what_lies_there(url: str, small_case: Small, tmp_path: Path) -> None:
    case = small_case(limit=1)
    work([case], options(url, tmp_path / "scratch"), SweepListener())
    store = UrlStore(url)
    assert set(store.list()) == set(everything_at(url))
    assert [(one.name, one.state) for one in survey(store)] == [(case.folder, CaseState.DONE)]
    assert locate_case(case.identity[:5], store) == (store, case.folder)


# What is refused


class Full(MemoryFileSystem):  # type: ignore[misc]
    """A store that takes nothing any more."""

    protocol = "full"

    def _open(self, path: str, mode: str = "rb", *_: Any, **__: Any) -> Any:
        if mode != "rb":
            raise OSError(28, "No space left on device")
        return super()._open(path, mode)


def test_a_store_that_takes_nothing_stops_the_sweep_and_fails_no_case(small_case: Small, tmp_path: Path) -> None:
    fsspec.register_implementation("full", Full, clobber=True)
    ends = Ends()
    with pytest.raises(StoreError, match="cannot write to full://runs: No space left on device"):
        work([small_case(limit=1)], options("full://runs", tmp_path / "scratch"), ends)
    assert ends.states == []


class Forbidden(MemoryFileSystem):  # type: ignore[misc]
    """A store whose files may be listed and not read."""

    protocol = "forbidden"

    def cat_file(self, path: str, *_: Any, **__: Any) -> bytes:
        raise PermissionError(13, "Forbidden")


def test_a_record_that_may_not_be_read_is_an_error_and_no_missing_record(small_case: Small) -> None:
    fsspec.register_implementation("forbidden", Forbidden, clobber=True)
    UrlStore("forbidden://runs").write({f"x/{RECORD}": b"{}", f"x/{FAILURE}": b"{}"})
    refusal = "cannot read forbidden://runs: Forbidden; check the URL and your access"
    with pytest.raises(StoreError, match=refusal), UrlStore("forbidden://runs").open(everything=False):
        pytest.fail("nothing was fetched")
    with pytest.raises(StoreError, match="cannot read forbidden://runs: Forbidden"):
        UrlStore("forbidden://runs").find(small_case())


def test_bad_urls_are_one_line(tmp_path: Path) -> None:
    fsspec.register_implementation("driverless", "no_such_driver.FileSystem", errtxt="Install no-such-driver", clobber=True)
    (tmp_path / "file").write_text("")
    for url, words in (
        (
            "nothing://bucket/runs",
            "nothing://bucket/runs: Protocol not known: nothing; accepted: s3://, gs://, sftp://, file://",
        ),
        ("driverless://bucket", "driverless://bucket: the driver of driverless:// is not installed (Install no-such-driver)"),
        (f"file://{tmp_path}/file", "is a file; give the URL of a folder"),
    ):
        with pytest.raises(StoreError) as caught:
            UrlStore(url).check()
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(StoreError, match=r"cannot write to file://.*/file/runs: .*; check the URL and your access"):
        UrlStore(f"file://{tmp_path}/file/runs").write({"plan.json": b""})


def test_no_message_shows_a_password() -> None:
    store = UrlStore("sftp://alice:secret@host/runs/")
    assert str(store) == "sftp://alice:***@host/runs"
    assert store / "case" == "sftp://alice:***@host/runs/case"
    assert str(UrlStore("s3://bucket/a:b@c")) == "s3://bucket/a:b@c"


def test_a_name_that_leads_out_of_the_copy_is_not_fetched(tmp_path: Path) -> None:
    MemoryFileSystem().pipe_file("/runs/../../outside.json", b"{}")
    MemoryFileSystem.store["/runs/../outside.json"] = MemoryFileSystem.store.popitem()[1]
    UrlStore("memory://runs").write({"inside[1].json": b"{}"})
    with UrlStore("memory://runs").open(everything=False) as copy:
        assert [path.name for path in copy.rglob("*.json")] == ["inside[1].json"]
        assert not (copy.parent / "outside.json").exists()
