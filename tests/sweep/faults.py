"""What tests of faults share: a study, a sweep that ran to its end, and what an undisturbed one leaves."""

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from privbench.core import Case, ComputeOptions, Record
from privbench.store.case_folder import CaseFolder
from privbench.store.layout import RECORD
from privbench.store.local import FolderStore
from privbench.sweep.work import SweepListener, SweepOptions
from tests.sweep.sweeping import Sweep, contents

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


def pictures(folder: Path, names: Sequence[str]) -> None:
    folder.mkdir(parents=True)
    noise = np.random.default_rng(1)
    for name in names:
        Image.fromarray(noise.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / name)
