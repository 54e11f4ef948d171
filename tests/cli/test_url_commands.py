"""The commands on a URL, as a user meets them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pandas as pd
import pytest
from click.testing import Result
from fsspec.implementations.memory import MemoryFileSystem

Cli = Callable[..., Result]

URL = "memory://bucket/runs"

STUDY = """
name: small
settings: {attack: test-walk, model: test-vit, weights: random, limit: 1}
grid:
  - {defense: [none, mjp]}
"""


@pytest.fixture(autouse=True)
def empty_memory() -> Iterator[None]:
    """fsspec's memory is one for the whole process."""
    MemoryFileSystem.store.clear()
    yield
    MemoryFileSystem.store.clear()


@pytest.fixture
def sweep(privbench: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return lambda *arguments: privbench("sweep", "study.yaml", "--no-download", "--device", "cpu", *arguments)


def ok(answer: Result) -> str:
    assert answer.exit_code == 0, answer.output
    return answer.stdout


@pytest.fixture
def swept(sweep: Cli) -> None:
    """One study, at the URL and in a folder."""
    first = sweep("--output", URL)
    assert ok(first).splitlines() == [f"2 of 2 cases done; {URL}", f"next: privbench leaderboard {URL}"]
    ok(sweep("--output", "out"))


@pytest.mark.usefixtures("swept")
def test_what_reads_a_folder_reads_a_url(sweep: Cli, privbench: Cli, tmp_path: Path) -> None:
    again = sweep("--output", URL)
    assert ok(again).splitlines()[0] == f"2 of 2 cases done; {URL}"
    assert again.stderr == ""
    assert ok(sweep("--output", URL, "--dry-run")).count(f"done     {URL}/") == 2

    status = ok(privbench("status", URL, "--all"))
    assert status.count(f"done     {URL}/") == 2
    assert status.replace(URL, "out") == ok(privbench("status", "out", "--all"))
    for place in (URL, "out"):
        ok(privbench("leaderboard", place, "-o", f"{len(place)}.csv"))
    boards = [pd.read_csv(path).drop(columns="seconds_per_image") for path in tmp_path.glob("*.csv")]
    assert len(boards) == 2
    assert boards[0].equals(boards[1])
    assert ok(privbench("compare", URL)) == ok(privbench("compare", "out"))

    case = status.split()[1]
    shown = ok(privbench("show", case))
    assert shown == ok(privbench("show", case[-12:-4], "--output", URL))
    assert f"again: privbench run --config {case} --force" in shown
    assert "damaged" not in shown
    assert f"{URL}/" in ok(privbench("run", "--config", f"{case}/case.yaml", "--output", URL, "--dry-run"))


@pytest.mark.nightly
@pytest.mark.usefixtures("swept")
def test_what_needs_pictures_or_computes_again_takes_a_url(privbench: Cli, tmp_path: Path) -> None:
    case = ok(privbench("status", URL, "--all")).split()[1]
    assert "holds, equal to the last bit" in ok(privbench("verify", case, "--device", "cpu", "--no-download", "--quiet"))
    ok(privbench("report", URL, "-o", "url.html"))
    ok(privbench("report", "out", "-o", "out.html"))
    pages = [(tmp_path / name).read_text() for name in ("url.html", "out.html")]
    assert f"privbench verify {case}" in pages[0]
    # Two photos, and of each in both cases what the client fed its model and what came back.
    assert pages[0].count("data:image/webp") == pages[1].count("data:image/webp") == 2 + 2 * 2 * 2

    ok(privbench("calibrate", URL, "--no-download"))
    ok(privbench("identify", URL, "--candidates", "3", "--no-download"))
    names = [name.rpartition("/")[2] for name in MemoryFileSystem.store]
    assert len([name for name in names if name.startswith("calibration--")]) == 1
    assert names.count("identification.json") == 2
    ok(privbench("leaderboard", URL))
    assert set(pd.read_csv(tmp_path / "leaderboard.csv")["identified_of"]) == {3}


def test_run_publishes_to_a_url_and_computes_nothing_twice(
    small_run: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    how = ("--output", URL, "--limit", "1", "--defense")
    first = ok(small_run(*how, "none,mjp"))
    assert f"{URL}/comparison-" in first
    assert len([name for name in MemoryFileSystem.store if name.endswith("record.json")]) == 2
    before = {name: file for name, file in MemoryFileSystem.store.items() if "/comparison-" not in name}
    ok(small_run(*how, "mjp"))
    assert {name: file for name, file in MemoryFileSystem.store.items() if name in before} == before
    ok(small_run(*how, "none", "--force"))
    changed = [name for name, file in before.items() if MemoryFileSystem.store[name] is not file]
    assert changed
    assert all("/none--" in name for name in changed)


def test_a_failed_case_at_a_url_is_told_and_tried_again_on_request(sweep: Cli, privbench: Cli) -> None:
    how = ("--output", URL, "--set", "attack.largest_batch=0")
    answer = sweep(*how)
    assert answer.exit_code == 1
    assert "0 of 2 cases done, 2 failed (--retry-failed tries them again)" in answer.stdout
    assert ok(privbench("status", URL)).count("takes at most 0 images") == 2
    assert sweep(*how).stderr == ""
    assert "failed:" in sweep(*how, "--retry-failed").stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("leaderboard", "nothing://x"), "nothing://x: Protocol not known: nothing; accepted: s3://"),
        (("status", "driverless://x"), "driver of driverless:// is not installed (Install no-such-driver)"),
        (("status", URL), f"there is no case in {URL}"),
        (("leaderboard", URL), f"there is no record.json below {URL}"),
        (("show", "abc", "--output", URL), f"no case 'abc' in {URL}"),
        (("report", "memory://file"), "memory://file is a file; give the URL of a folder"),
        (("run", "--config", f"{URL}/case.yaml"), f"there is no case at {URL}/case.yaml"),
        (("run", "--output", "nothing://x"), "Protocol not known"),
        (("run", "--scratch", "here"), "--scratch is of a URL; --output results/runs is a folder"),
        (("sweep", "study.yaml", "--output", "driverless://x"), "driver of driverless:// is not installed"),
        (("sweep", "study.yaml", "--output", "memory://file"), "is a file"),
        (("sweep", "study.yaml", "--output", URL, "--jobs", "2"), "is the memory of one process; use --jobs 1"),
        (("sweep", "study.yaml", "--output", "file:///proc/privbench"), "cannot write to file:///proc/privbench"),
    ],
)
@pytest.mark.usefixtures("sweep")
def test_bad_urls_are_one_line_and_exit_code_2(privbench: Cli, arguments: tuple[str, ...], words: str) -> None:
    fsspec.register_implementation("driverless", "no_such_driver.FileSystem", errtxt="Install no-such-driver", clobber=True)
    MemoryFileSystem().pipe_file("/file", b"")
    answer = privbench(*arguments)
    assert answer.exit_code == 2, answer.output
    assert words in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
