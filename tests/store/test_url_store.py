"""A results folder behind a URL: what is published, what is computed again, who may compute, what is refused."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from privbench.analysis.leaderboard import leaderboard, leaderboard_csv
from privbench.core import ENSEMBLES, BusyError, Case, Ensemble, FailedCase, Record, StoreError
from privbench.runner.listener import Standing
from privbench.store.folder import CLAIM, FAILURE, RECORD, CaseFolder
from privbench.store.remote import PROGRESS, Remote, fetched
from privbench.sweep.survey import survey
from privbench.sweep.work import CaseState, SweepListener, Way, standing, work
from privbench.sweep.workers import alone
from tests.sweep.sweeping import contents

Small = Callable[..., Case]


@pytest.fixture(autouse=True)
def empty_memory() -> Iterator[None]:
    """fsspec's memory is one for the whole process."""
    MemoryFileSystem.store.clear()
    yield
    MemoryFileSystem.store.clear()


@pytest.fixture(params=["file", pytest.param("memory", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://runs" if request.param == "memory" else f"file://{tmp_path}/there/runs"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What the walks that ran so far did: `begun` or `continued`."""
    path = tmp_path / "log.txt"
    path.touch()
    monkeypatch.setenv("PRIVBENCH_TEST_LOG", str(path))
    return lambda: [line.split()[0] for line in path.read_text().splitlines()]


def way(url: str, scratch: Path, **options: Any) -> Way:
    """As a machine with this working folder would work."""
    remote = Remote(url, scratch, **options)
    return Way(output=remote.folder, remote=remote, download=False, checkpoint_interval=0.0)


def remote_of(found: Way) -> Remote:
    assert found.remote is not None
    return found.remote


def everything_at(url: str) -> dict[str, bytes]:
    with fetched(Remote(url), everything=True) as copy:
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
    work(cases, Way(output=tmp_path / "local", download=False), SweepListener())
    first = way(url, tmp_path / "first")
    work(cases, first, SweepListener())
    assert everything_at(url) == contents(tmp_path / "local")
    assert not list(first.output.glob("*--*")), "what is published leaves the working folder"
    with fetched(Remote(url)) as copy:
        assert sorted(path.name for path in copy.rglob("*") if path.is_file()) == [RECORD, RECORD]
        rows = [leaderboard(folder).drop(columns="seconds_per_image") for folder in (copy, tmp_path / "local")]
        assert leaderboard_csv(rows[0]) == leaderboard_csv(rows[1])

    assert log() == ["begun"] * 4
    for scratch in ("first", "second"):
        ends = Ends()
        work(cases, way(url, tmp_path / scratch), ends)
        assert ends.states == [CaseState.DONE] * 2
    assert log() == ["begun"] * 4


@pytest.mark.slow
def test_an_ensemble_is_published_with_its_members(url: str, small_case: Small, tmp_path: Path) -> None:
    ENSEMBLES.register("test-of-one", Ensemble("For a test.", ("test-walk",)))
    try:
        case = small_case(attack="test-of-one", defense="none", limit=1)
        work([case], Way(output=tmp_path / "local", download=False), SweepListener())
        work([case], way(url, tmp_path / "scratch"), SweepListener())
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
    work([case], way(url, tmp_path / "first"), SweepListener())
    whole = everything_at(url)
    name = f"{case.folder}/{RECORD}"
    content = Remote(url).read(name)
    assert content is not None
    if damage == "no record":
        fsspec.open(f"{url}/{name}").fs.rm_file(f"{fsspec.core.url_to_fs(url)[1]}/{name}")
    else:
        Remote(url).write({name: content[: len(content) // 2]})
    assert Remote(url).find(case) is None
    work([case], way(url, tmp_path / "second"), SweepListener())
    assert log() == ["begun"] * 2
    assert everything_at(url) == whole


def test_a_case_that_was_finished_and_not_published_is_published_without_being_computed(
    url: str, small_case: Small, log: Callable[[], list[str]], tmp_path: Path
) -> None:
    case = small_case(limit=1)
    one = way(url, tmp_path / "scratch")
    work([case], replace(one, remote=None), SweepListener())
    work([case], one, SweepListener())
    assert log() == ["begun"]
    assert isinstance(Remote(url).find(case), Record)


def test_the_first_record_stays(url: str, small_case: Small, tmp_path: Path) -> None:
    case = small_case(limit=1)
    slow, fast = way(url, tmp_path / "slow"), way(url, tmp_path / "fast")
    with remote_of(slow).working(case) as found:
        assert found is None
        work([case], replace(slow, remote=None), SweepListener())
        # The slow machine is taken for dead; another one takes the case.
        Remote(url).write({f"{case.folder}/{CLAIM}": b'{"owner": "slow", "expires": 0}'})
        work([case], fast, SweepListener())
        first = Remote(url).read(f"{case.folder}/{RECORD}")
        assert first is not None
    assert Remote(url).read(f"{case.folder}/{RECORD}") == first
    assert not list(slow.output.glob("*--*"))


def test_a_failed_case_is_kept_with_its_reason_and_tried_again_on_request(url: str, small_case: Small, tmp_path: Path) -> None:
    case = small_case(limit=1, settings=("attack.largest_batch=0",))
    work([case], way(url, tmp_path / "first"), SweepListener())
    failure = Remote(url).find(case)
    assert isinstance(failure, FailedCase)
    assert "takes at most 0 images" in failure.reason
    claimed: list[Case] = []

    class Noting(Ends):
        def claimed(self, case: Case) -> None:
            claimed.append(case)

    ends = Noting()
    work([case], way(url, tmp_path / "second"), ends)
    assert (ends.states, claimed) == ([CaseState.FAILED], [])
    Remote(url).forget_failure(case)
    work([case], way(url, tmp_path / "second"), ends)
    assert claimed == [case]
    assert [name for name in everything_at(url) if name.endswith(CLAIM)] == []


# Continuing elsewhere


def test_a_stopped_case_continues_on_another_machine(
    url: str, small_case: Small, log: Callable[[], list[str]], tmp_path: Path
) -> None:
    case = small_case(settings=("attack.steps=30", "attack.pause=0.01"))
    work([case], Way(output=tmp_path / "whole", download=False), SweepListener())

    class Stopping(SweepListener):
        """Ends the time in the middle of the second image."""

        def step(self, case: Case, at: Standing) -> None:
            if at.batches == (1,) and at.step == 15:
                os.kill(os.getpid(), signal.SIGTERM)

    first = way(url, tmp_path / "first")
    with pytest.raises(KeyboardInterrupt):
        alone([case], first, Stopping(), budget=None)
    with fetched(Remote(url)) as copy:
        assert [(one.path.name, one.state) for one in survey(copy)] == [(case.folder, CaseState.BEGUN)]
    work([case], way(url, tmp_path / "second"), SweepListener())
    assert log() == ["begun", "begun", "begun", "begun", "continued"]
    assert everything_at(url) == contents(tmp_path / "whole")
    found, expected = Remote(url).find(case), CaseFolder(tmp_path / "whole", case).record()
    assert isinstance(found, Record)
    assert expected is not None
    assert without_clock(found) == without_clock(expected)


def test_a_damaged_copy_of_checkpoints_is_none(
    url: str, small_case: Small, log: Callable[[], list[str]], tmp_path: Path
) -> None:
    case = small_case(limit=1)
    Remote(url).write({f"{case.folder}/{PROGRESS}": b"PK\x03\x04 no zip file"})
    work([case], way(url, tmp_path / "scratch"), SweepListener())
    assert log() == ["begun"]
    assert Remote(url).read(f"{case.folder}/{PROGRESS}") is None


def test_a_copy_of_checkpoints_writes_nothing_outside_its_case(url: str, small_case: Small, tmp_path: Path) -> None:
    import zipfile

    case = small_case(limit=1)
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("../outside.txt", "x")
        archive.writestr(f"{tmp_path}/absolute.txt", "x")
    Remote(url).write({f"{case.folder}/{PROGRESS}": (tmp_path / "bad.zip").read_bytes()})
    work([case], way(url, tmp_path / "scratch"), SweepListener())
    assert not list(tmp_path.rglob("outside.txt"))
    assert not (tmp_path / "absolute.txt").exists()


def test_claim_and_checkpoints_are_renewed_while_a_case_is_computed(url: str, small_case: Small, tmp_path: Path) -> None:
    case = small_case(limit=1, settings=("attack.steps=40", "attack.pause=0.05"))
    claims: set[bytes | None] = set()
    copies: set[bytes | None] = set()

    class Looking(SweepListener):
        def step(self, case: Case, *_: object) -> None:
            claims.add(Remote(url).read(f"{case.folder}/{CLAIM}"))
            copies.add(Remote(url).read(f"{case.folder}/{PROGRESS}"))

    work([case], way(url, tmp_path / "scratch", lease=1.0), Looking())
    assert len(claims - {None}) >= 3
    assert len(copies - {None}) >= 2
    assert [name for name in everything_at(url) if CLAIM in name or PROGRESS in name] == []


# Claims


def claim(url: str, case: Case, owner: str, seconds: float) -> None:
    content = f'{{"owner": "{owner}", "expires": {time.time() + seconds}}}'
    Remote(url).write({f"{case.folder}/{CLAIM}": content.encode()})


def test_a_claimed_case_runs_elsewhere_until_its_claim_ends(url: str, small_case: Small, tmp_path: Path) -> None:
    case = small_case(limit=1)
    claim(url, case, "another machine", 60.0)
    here = way(url, tmp_path / "scratch")
    assert standing(case, here) == (CaseState.RUNNING, None)
    with fetched(Remote(url)) as copy:
        assert [one.state for one in survey(copy)] == [CaseState.RUNNING]
    with pytest.raises(BusyError, match="another machine computes"), remote_of(here).working(case):
        pytest.fail("the claim was not honoured")
    claim(url, case, "another machine", 1.0)
    began = time.monotonic()
    work([case], here, SweepListener())
    assert time.monotonic() - began >= 0.5
    assert isinstance(Remote(url).find(case), Record)


@pytest.mark.parametrize("content", [b"", b"{}", b"{"], ids=["empty", "no claim", "cut off"])
def test_a_claim_that_cannot_be_read_keeps_nobody_out(content: bytes, url: str, small_case: Small, tmp_path: Path) -> None:
    case = small_case(limit=1)
    Remote(url).write({f"{case.folder}/{CLAIM}": content})
    work([case], way(url, tmp_path / "scratch"), SweepListener())
    assert isinstance(Remote(url).find(case), Record)


def test_what_a_killed_process_claimed_from_the_same_working_folder_is_taken_over_at_once(
    url: str, small_case: Small, tmp_path: Path
) -> None:
    case = small_case(limit=1)
    here = way(url, tmp_path / "scratch")
    work([small_case(limit=1, seed=1)], here, SweepListener())
    claim(url, case, (here.output / "owner").read_text(), 3600.0)
    assert standing(case, here)[0] is CaseState.WAITING
    work([case], here, SweepListener())
    assert isinstance(Remote(url).find(case), Record)


def test_two_processes_with_one_working_folder_keep_out_of_each_others_case(
    url: str, small_case: Small, tmp_path: Path
) -> None:
    case = small_case(limit=1)
    here = way(url, tmp_path / "scratch")
    with remote_of(here).working(case):
        assert standing(case, here)[0] is CaseState.RUNNING
        with pytest.raises(BusyError, match="another process computes"), remote_of(here).working(case):
            pytest.fail("the lock was not honoured")
        work([case], replace(here, remote=None), SweepListener())


class Loose(MemoryFileSystem):  # type: ignore[misc]
    """A store that creates nothing exclusively, or says in its own way that a file is there; a rival claims cases."""

    protocol = "loose"
    before: bytes | None = None
    after: bytes | None = None

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        if mode == "create":
            if self.before is not None:
                super().pipe_file(path, self.before)
            raise OSError(22, "Precondition failed")
        super().pipe_file(path, value, **kwargs)
        if self.after is not None and path.endswith(CLAIM):
            super().pipe_file(path, self.after)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_rival_that_claims_at_the_same_time_is_seen_without_exclusive_creation(
    moment: str, small_case: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.register_implementation("loose", Loose, clobber=True)
    case = small_case(limit=1)
    here = way("loose://runs", tmp_path / "scratch")
    monkeypatch.setattr(Loose, moment, f'{{"owner": "rival", "expires": {time.time() + 60}}}'.encode())
    with pytest.raises(BusyError, match="another machine computes"), remote_of(here).working(case):
        pytest.fail("the rival was not seen")
    monkeypatch.setattr(Loose, moment, None)
    MemoryFileSystem.store.clear()
    work([case], here, SweepListener())
    assert isinstance(Remote("loose://runs").find(case), Record)


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
        work([small_case(limit=1)], way("full://runs", tmp_path / "scratch"), ends)
    assert ends.states == []


class Forbidden(MemoryFileSystem):  # type: ignore[misc]
    """A store whose files may be listed and not read."""

    protocol = "forbidden"

    def cat_file(self, path: str, *_: Any, **__: Any) -> bytes:
        raise PermissionError(13, "Forbidden")


def test_a_record_that_may_not_be_read_is_an_error_and_no_missing_record(small_case: Small) -> None:
    fsspec.register_implementation("forbidden", Forbidden, clobber=True)
    Remote("forbidden://runs").write({f"x/{RECORD}": b"{}", f"x/{FAILURE}": b"{}"})
    refusal = "cannot read forbidden://runs: Forbidden; check the URL and your access"
    with pytest.raises(StoreError, match=refusal), fetched(Remote("forbidden://runs")):
        pytest.fail("nothing was fetched")
    with pytest.raises(StoreError, match="cannot read forbidden://runs: Forbidden"):
        Remote("forbidden://runs").find(small_case())


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
            Remote(url).check()
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(StoreError, match=r"cannot write to file://.*/file/runs: .*; check the URL and your access"):
        Remote(f"file://{tmp_path}/file/runs").write({"plan.json": b""})


def test_no_message_shows_a_password() -> None:
    remote = Remote("sftp://alice:secret@host/runs/")
    assert str(remote) == "sftp://alice:***@host/runs"
    assert remote / "case" == "sftp://alice:***@host/runs/case"
    assert str(Remote("s3://bucket/a:b@c")) == "s3://bucket/a:b@c"


def test_a_name_that_leads_out_of_the_copy_is_not_fetched(tmp_path: Path) -> None:
    MemoryFileSystem().pipe_file("/runs/../../outside.json", b"{}")
    MemoryFileSystem.store["/runs/../outside.json"] = MemoryFileSystem.store.popitem()[1]
    Remote("memory://runs").write({"inside[1].json": b"{}"})
    with fetched(Remote("memory://runs")) as copy:
        assert [path.name for path in copy.rglob("*.json")] == ["inside[1].json"]
        assert not (copy.parent / "outside.json").exists()
