"""A pack is a folder in one file: the same rows, nothing of one machine, nothing that a damaged or hostile file could do."""

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from privbench.analysis.damaged import sound_view
from privbench.analysis.leaderboard import leaderboard, leaderboard_csv
from privbench.core import Case, FailedCase, Interval, Record, StoreError, UserError, UtilityReport
from privbench.store.base import Store
from privbench.store.layout import CASE, FAILURE, RECORD, TRACE
from privbench.store.local import FolderStore
from privbench.store.pack import PackStore, pack
from privbench.store.places import case_names, local_folder, locate_case, place_of, store_at
from privbench.sweep.status import CaseState, survey

Small = Callable[..., Case]
Compute = Callable[..., Record]


@pytest.fixture
def computed(small_case: Small, compute: Compute, tmp_path: Path) -> Record:
    """One case below `tmp_path/runs`, of images that lie in a folder of the user's."""
    data = tmp_path / "somewhere" / "holiday"
    data.mkdir(parents=True)
    for shade in (50, 150):
        Image.new("RGB", (32, 32), (shade, 100, shade)).save(data / f"{shade}.png")
    record = compute(small_case(data=str(data)), output=tmp_path / "runs")
    (tmp_path / "runs" / record.case.folder / ".work").mkdir()
    (tmp_path / "runs" / record.case.folder / ".work" / "batch-00000.json").write_text("{}")
    return record


@pytest.fixture
def packed(computed: Record, tmp_path: Path) -> PackStore:
    assert pack(FolderStore(tmp_path / "runs"), tmp_path / "study.jsonl.gz") == 1
    return PackStore(tmp_path / "study.jsonl.gz")


def table(store: Store) -> str:
    with store.open(everything=False) as folder:
        return leaderboard_csv(leaderboard(folder))


def test_a_pack_makes_the_leaderboard_of_its_folder(packed: PackStore, tmp_path: Path) -> None:
    assert table(packed) == table(FolderStore(tmp_path / "runs"))
    assert [(one.name, one.state) for one in survey(packed)] == [(*case_names(packed), CaseState.DONE)]


def test_a_pack_holds_all_files_of_a_case_but_those_of_one_machine(computed: Record, packed: PackStore, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / computed.case.folder
    with packed.open() as copy:
        inside = copy / computed.case.folder
        names = {path.relative_to(inside).as_posix() for path in inside.rglob("*") if path.is_file()}
        assert names == {RECORD, *computed.files} - {CASE}
        for name in names - {RECORD}:
            assert (inside / name).read_bytes() == (folder / name).read_bytes()
        record = Record.load(inside / RECORD)
    assert set(record.files) == names - {RECORD}
    assert record.model_copy(update={"files": computed.files}) == computed
    without = tmp_path / "small.jsonl.gz"
    pack(FolderStore(tmp_path / "runs"), without, pictures=False)
    assert not [name for name in PackStore(without).list() if name.endswith(".png")]
    pack(FolderStore(tmp_path / "runs"), without, traces=False)
    assert {Path(name).name for name in names if name not in {RECORD, TRACE}} <= {
        Path(name).name for name in PackStore(without).list()
    }
    assert TRACE in names
    assert not [name for name in PackStore(without).list() if name.endswith(TRACE)]


def test_a_record_names_its_data_without_the_path(computed: Record, packed: PackStore, tmp_path: Path) -> None:
    assert computed.case.data.source == "holiday"
    assert str(tmp_path) not in gzip.decompress(packed.path.read_bytes()).decode()
    assert str(tmp_path / "somewhere") in (tmp_path / "runs" / computed.case.folder / CASE).read_text()


def test_reports_and_failed_cases_are_packed_without_paths(computed: Record, tmp_path: Path) -> None:
    weights = str(tmp_path / "mine" / "vit.safetensors")
    victim = computed.case.victim.model_copy(update={"weights": weights})
    half = Interval(mean=0.5, low=0.4, high=0.6, n=2)
    report = UtilityReport(
        victim=victim,
        defense=computed.case.defense,
        dataset="holiday",
        images=2,
        seed=0,
        accuracy=half,
        defended_accuracy=half,
        jigsaw="mjp",
        calibration_error=0.1,
        epsilon=0.01,
        torch="2",
    )
    failed = FailedCase(
        case_id="0" * 12,
        case=computed.case.model_copy(update={"victim": victim}),
        reason="no memory",
        version="0",
        finished="2026-11-28T00:00:00+00:00",
    )
    runs, target = tmp_path / "runs", tmp_path / "study.jsonl.gz"
    (runs / "utility--none--vit--0.json").write_text(report.to_json())
    (runs / "failed").mkdir()
    (runs / "failed" / FAILURE).write_text(failed.to_json())
    pack(FolderStore(runs), target)
    assert str(tmp_path) not in gzip.decompress(target.read_bytes()).decode()
    with PackStore(target).open() as inside:
        found = UtilityReport.load(inside / "utility--none--vit--0.json")
        assert found.victim.weights == "vit.safetensors"
        assert found.model_copy(update={"victim": victim}) == report
        assert FailedCase.load(inside / "failed" / FAILURE).case.victim.weights == "vit.safetensors"


def test_equal_results_give_equal_bytes_and_a_pack_packs_to_itself(packed: PackStore, tmp_path: Path) -> None:
    again, twice = tmp_path / "again.jsonl.gz", tmp_path / "twice.jsonl.gz"
    pack(FolderStore(tmp_path / "runs"), again)
    pack(packed, twice)
    assert again.read_bytes() == twice.read_bytes() == packed.path.read_bytes()


def test_a_folder_with_packs_in_it_counts_them_as_folders(computed: Record, packed: PackStore, tmp_path: Path) -> None:
    both = tmp_path / "both"
    (both / "sub").mkdir(parents=True)
    (both / "sub" / "one.jsonl.gz").write_bytes(packed.path.read_bytes())
    (tmp_path / "runs").rename(both / "runs")
    store = FolderStore(both)
    name = f"sub/one.jsonl.gz/{computed.case.folder}"
    assert case_names(store) == {f"runs/{computed.case.folder}", name}
    assert len(survey(store)) == 2
    with store.open() as view:
        assert len(leaderboard(view)) == 2
        assert len(list((view / name / "reconstructions").iterdir())) == 2
    assert locate_case(str(both / name), store) == (PackStore(both / "sub" / "one.jsonl.gz"), computed.case.folder)
    store.write({f"{name}/identification.json": b"{}", "calibration--x.json": b"{}"})
    assert store.read(f"{name}/identification.json") == b"{}\n"
    assert (both / "calibration--x.json").read_bytes() == b"{}"


def test_nothing_is_computed_into_a_pack(packed: PackStore) -> None:
    with pytest.raises(StoreError, match=r"study\.jsonl\.gz is a pack, which cases are only read from; choose a folder"):
        packed.check()


def test_addresses(tmp_path: Path) -> None:
    assert store_at("x/a.jsonl.gz") == PackStore(Path("x/a.jsonl.gz"))
    assert place_of("x/a.jsonl.gz/sub/case") == (PackStore(Path("x/a.jsonl.gz")), "sub/case")
    (tmp_path / "a.jsonl.gz").mkdir()
    assert store_at(tmp_path / "a.jsonl.gz") == FolderStore(tmp_path / "a.jsonl.gz")
    assert local_folder(tmp_path) == tmp_path


HEADER = {"privbench_pack": 1, "files": 1}


def lines(*contents: Any) -> bytes:
    return gzip.compress("".join(one if isinstance(one, str) else json.dumps(one) + "\n" for one in contents).encode())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "there is no pack|its first line|EOFError|damaged"),
        (b"no gzip", "BadGzipFile"),
        (lines({"name": "a"}), "its first line does not say so"),
        (lines({"privbench_pack": 2, "files": 0}), "its first line does not say so"),
        (lines(HEADER), "0 of 1 files"),
        (lines(HEADER, {"name": "a.json", "json": 1})[:-12], "EOFError|damaged"),
        (lines(HEADER, "nonsense\n"), "ValueError"),
        (lines(HEADER, {"name": "../a.json", "json": 1}), "the name '../a.json'"),
        (lines(HEADER, {"name": "/a.json", "json": 1}), "the name '/a.json'"),
        (lines({**HEADER, "files": 2}, *[{"name": "a.json", "json": 1}] * 2), "the name 'a.json'"),
        (lines(HEADER, {"name": "a.png", "base64": "*"}), "damaged pack: the file a.png"),
        (lines(HEADER, {"name": "a.json"}), "damaged pack: the file a.json"),
        (lines(HEADER, '{"name": "a.json", "json": ' + "[" * 100_000 + "\n"), "damaged"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value[:20],
)
def test_what_is_no_pack_is_refused_in_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught, PackStore(path).open():
        pass
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == [path]


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privbench.store.pack._LARGEST", 10_000)
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(lines(HEADER, {"name": "a.json", "json": " " * 100_000}))
    with pytest.raises(UserError, match=r"come out of it|damaged"), PackStore(path).open():
        pass


def test_what_cannot_be_packed_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"the names of packs end in .jsonl.gz"):
        pack(FolderStore(tmp_path / "empty"), tmp_path / "study.zip")
    with pytest.raises(UserError, match=r"there is no record.json below"):
        pack(FolderStore(tmp_path / "empty"), tmp_path / "study.jsonl.gz")
    with pytest.raises(UserError, match=r"there is no pack .*none.jsonl.gz"):
        PackStore(tmp_path / "none.jsonl.gz").list()


def test_a_pack_that_unpacks_to_hundreds_of_times_its_size_is_refused_early(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wb") as file:
        file.write(b'{"privbench_pack":1,"files":1}\n')
        for _ in range(70):
            file.write(bytes(2**20))
    started = time.process_time()
    with pytest.raises(UserError, match=r"a\.jsonl\.gz is not a pack .*: more than 64 MiB come out of it"):
        PackStore(tmp_path / "a.jsonl.gz").list()
    assert time.process_time() - started < 5


def test_a_loop_of_links_beside_a_pack_is_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "record.json").symlink_to("record.json")
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write('{"privbench_pack":1,"files":0}\n')
    with FolderStore(tmp_path).open() as view, pytest.raises(UserError, match="cannot read the record"):
        Record.load(view / "case" / "record.json")
    (tmp_path / "a.jsonl.gz").unlink()
    with sound_view(tmp_path) as (view, damaged):
        assert not list(view.iterdir())
        assert len(damaged) == 1
