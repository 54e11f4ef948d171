"""Loggers: a tracker gets settings, losses, guesses and scores of every case, and its faults do not cost the attack."""

import csv
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from privbench import api
from privbench.core import LOGGERS, Case, ComputeOptions, Logger, Record, UserError, mean_explained
from privbench.runner.listener import Broadcast
from privbench.store.layout import LOGS, TRACE, find_records
from privbench.store.local import FolderStore
from privbench.sweep.work import SweepListener, SweepOptions, work
from privbench.watch.logs import LogListener, RunLogs, require_loggers
from tests.runner.watching import PowerCut

MATCHING = {"attack": "adjoint-matching:steps=30,adjoint=free", "defense": "none", "limit": 2}


class Diary(Logger):
    """Keeps what it is told, for all runs of a test."""

    name = "diary"
    runs: dict[str, list[tuple[Any, ...]]] = {}  # noqa: RUF012 (emptied by the fixture)
    breaks_at = ""

    def __init__(self, run: str, folder: Path, settings: Mapping[str, str | int | float | bool]) -> None:
        self.entries = self.runs.setdefault(run, [])
        self._take("begin", folder, dict(settings))

    @property
    def where(self) -> str:
        return "in the test"

    def values(self, part: str, step: int, values: Mapping[str, float]) -> None:
        self._take("values", part, step, dict(values))

    def picture(self, part: str, step: int, image: Tensor) -> None:
        self._take("picture", part, step, image)

    def end(self, summary: Mapping[str, float]) -> None:
        self._take("end", dict(summary))

    def _take(self, *entry: Any) -> None:
        if entry[0] == self.breaks_at:
            raise ConnectionError("the tracker is gone")
        self.entries.append(entry)


@pytest.fixture(autouse=True)
def diary(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Diary, "runs", {})
    LOGGERS.register("diary", Diary)
    yield
    LOGGERS.unregister("diary")


Compute = Callable[..., Record]
Small = Callable[..., Case]


def logged(case: Case, compute: Compute, folder: Path, *names: str) -> tuple[Record, list[str]]:
    """The record of a case that is computed with loggers, and what was noted."""
    notes: list[str] = []
    logs = LogListener(names, folder, notes.append)
    try:
        return compute(case, output=folder, group=2, listener=Broadcast(logs)), notes
    finally:
        logs.close()


def test_a_logger_gets_settings_losses_guesses_and_scores(small_case: Small, compute: Compute, tmp_path: Path) -> None:
    case = small_case(**MATCHING)
    record, notes = logged(case, compute, tmp_path, "diary")
    entries = Diary.runs[case.folder]
    assert entries[0][:2] == ("begin", tmp_path / LOGS / "diary")
    assert entries[0][2]["attack.name"] == "adjoint-matching"
    assert entries[0][2]["attack.parameters.steps"] == 30
    assert [entry[1:3] for entry in entries if entry[0] == "values"] == [
        (f"image-{image}", step) for step in (10, 20, 30) for image in (1, 2)
    ]
    trace = list(csv.DictReader((tmp_path / case.folder / TRACE).read_text(encoding="utf-8").splitlines()))
    losses = {(entry[1], entry[2]): entry[3] for entry in entries if entry[0] == "values"}
    for row in trace:
        said = losses[f"image-{int(row['batch']) + 1}", int(row["step"])]
        share = said.pop("explained", None)
        assert said
        assert {name: float(row[name]) for name in said} == said
        # The share of the guess that the last step showed; of the first batch of a group.
        assert (share is None) is (row["batch"] == "1" or row["step"] == "10")
        assert share is None or 0 < share < 1
    shown = [entry for entry in entries if entry[0] == "picture"]
    assert [entry[1:3] for entry in shown[-2:]] == [("image-1", 30), ("image-2", 30)]
    assert all(entry[3].shape == (3, 32, 32) and entry[3].dtype == torch.uint8 for entry in shown)
    kind, summary = entries[-1]
    assert kind == "end"
    assert summary["psnr"] == record.summary["psnr"].mean
    assert summary["explained"] == mean_explained(record.images)
    assert notes[0] == "logged to diary: in the test"


def test_a_tracker_that_breaks_is_left_out_and_the_attack_goes_on(
    small_case: Small, compute: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Diary, "breaks_at", "picture")
    case = small_case(**MATCHING)
    record, notes = logged(case, compute, tmp_path, "diary")
    assert len(record.images) == 2
    assert notes[1:] == ["--log diary broke and is left out from here on: ConnectionError: the tracker is gone"]
    assert {entry[0] for entry in Diary.runs[case.folder]} == {"begin", "values"}


def test_a_tracker_that_cannot_begin_is_one_line_before_the_attack(
    small_case: Small, compute: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Diary, "breaks_at", "begin")
    with pytest.raises(UserError, match="--log diary cannot begin: ConnectionError: the tracker is gone"):
        logged(small_case(), compute, tmp_path, "diary")


def test_an_interrupted_run_is_ended_without_scores(small_case: Small, compute: Compute, tmp_path: Path) -> None:
    case = small_case()
    logs = LogListener(["diary"], tmp_path, lambda _: None)
    with pytest.raises(SystemExit):
        compute(case, output=tmp_path, listener=Broadcast(logs, PowerCut(0, 2)))
    logs.close()
    assert Diary.runs[case.folder][-1] == ("end", {})


def test_an_unknown_logger_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(UserError, match=r"unknown logger 'tensorbord'.*tensorboard"):
        require_loggers(["tensorbord"])


def test_the_front_door_and_a_sweep_report_every_case(small_case: Small, tmp_path: Path) -> None:
    options = {"attack": "test-walk", "weights": "random", "limit": 2}
    results = api.run(output=tmp_path / "one", log="diary", download=False, defense="none,mjp", **options)  # type: ignore[arg-type]
    assert set(Diary.runs) == {record.case.folder for record in results.records}
    Diary.runs.clear()
    cases = [small_case(seed=seed) for seed in (0, 1)]
    store = FolderStore(tmp_path / "many")
    work(cases, SweepOptions(store, ComputeOptions(), download=False, loggers=("diary",)), SweepListener())
    assert {run: entries[-1][0] for run, entries in Diary.runs.items()} == {case.folder: "end" for case in cases}


def test_files_of_trackers_are_no_results(small_case: Small, compute: Compute, tmp_path: Path) -> None:
    compute(small_case(), output=tmp_path)
    inside = tmp_path / LOGS / "wandb" / "record.json"
    inside.parent.mkdir(parents=True)
    inside.write_text("{}")
    assert [path.parent.name for path in find_records(tmp_path)] == [small_case().folder]


def test_the_logger_of_the_guide_runs_as_it_stands_there(
    small_case: Small, compute: Compute, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(__file__).parents[2] / "docs" / "guide" / "own-model.md"
    (source,) = re.findall(r"^```python\n(from privbench.core import Logger\n.*?)^```", page.read_text(), flags=re.S | re.M)
    space: dict[str, Any] = {"__name__": __name__}
    exec(source, space)
    LOGGERS.register("printed", space["Printed"])
    try:
        case = small_case()
        _, notes = logged(case, compute, tmp_path, "printed")
    finally:
        LOGGERS.unregister("printed")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"begins {case.folder} test-walk"
    assert said[1].startswith("image-1 1 ")
    assert said[-1].startswith("ends {'")
    assert notes == ["logged to printed: this terminal"]


# The built-in ones, where their packages are installed


def run_once(name: str, folder: Path) -> str:
    """One run with two steps, a picture and a score; where to look at it."""
    notes: list[str] = []
    with RunLogs([name], "a run", folder, {"attack": {"name": "plain", "levels": [1, 2]}}, notes.append) as logs:
        for step in (10, 20):
            logs.values("image-1", step, {"gradient": 1 / step})
        logs.picture("image-1", 20, torch.full((3, 4, 4), 200, dtype=torch.uint8))
        logs.end({"psnr": 21.5})
    assert len(notes) == 1
    return notes[0]


def test_tensorboard_reads_what_was_logged(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert run_once("tensorboard", tmp_path).endswith(f"tensorboard --logdir {tmp_path / LOGS / 'tensorboard'}")
    read = EventAccumulator(str(tmp_path / LOGS / "tensorboard" / "a run"))
    read.Reload()
    losses = [(event.step, event.value) for event in read.Scalars("gradient/image-1")]
    assert losses == [(10, pytest.approx(0.1)), (20, pytest.approx(0.05))]
    assert read.Scalars("score/psnr")[0].value == 21.5
    assert read.Images("reconstruction/image-1")[0].step == 20
    assert b"| attack.levels | [1, 2] |" in read.Tensors("settings/text_summary")[0].tensor_proto.string_val[0]


def test_mlflow_reads_what_was_logged_to_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = (tmp_path / LOGS / "mlflow").as_uri()
    assert run_once("mlflow", tmp_path).endswith(f"mlflow ui --backend-store-uri {store}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = mlflow.MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("privbench").experiment_id])
    assert (run.info.run_name, run.info.status) == ("a run", "FINISHED")
    assert run.data.params == {"attack.name": "plain", "attack.levels": "[1, 2]"}
    history = client.get_metric_history(run.info.run_id, "gradient/image-1")
    assert [(one.step, one.value) for one in history] == [(10, 0.1), (20, 0.05)]
    assert run.data.metrics["score/psnr"] == 21.5
    assert [one.path for one in client.list_artifacts(run.info.run_id, "image-1")] == ["image-1/000020.png"]


def test_weights_and_biases_stores_what_was_logged_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    said = run_once("wandb", tmp_path)
    (folder,) = (tmp_path / LOGS / "wandb" / "wandb").glob("offline-run-*")
    assert said.endswith(f"wandb sync {folder}")
    (stored,) = folder.glob("*.wandb")
    # Its own process writes, and may still do so.
    words = (b"attack.name", b"image-1/gradient", b"image-1/step", b"score/psnr", b"21.5")
    until = time.monotonic() + 30
    while not all(word in stored.read_bytes() for word in words) and time.monotonic() < until:
        time.sleep(0.1)
    assert [word for word in words if word not in stored.read_bytes()] == []
    (picture,) = (folder / "files" / "media" / "images" / "image-1").glob("*.png")
    assert picture.name.startswith("reconstruction")
