"""Every write of a case fails once, at each of its steps: nothing is lost, nothing is half-written, and the case goes on."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from privbench.core import Case, Record, StoreError
from privbench.store.case_folder import CaseFolder
from privbench.store.layout import RECORD, TEMPORARY
from tests.sweep.sweeping import contents

STEPS = ("open", "write", "fsync", "replace")


class Disk:
    """Counts the steps of all writes; one of them fails.

    Args:
        failing: Its number, from 0; None for none.
    """

    def __init__(self, failing: int | None = None) -> None:
        self.failing = failing
        self.steps: list[str] = []

    def step(self, name: str) -> None:
        self.steps.append(name)
        if len(self.steps) - 1 == self.failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextmanager
    def in_use(self) -> Iterator["Disk"]:
        whole_open, whole_replace, whole_fsync = Path.open, Path.replace, os.fsync

        def opened(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
            if not path.name.startswith(TEMPORARY):
                return whole_open(path, mode, *rest, **named)
            self.step("open")
            file = whole_open(path, mode, *rest, **named)
            return _Half(file, self)

        def replaced(path: Path, target: Path) -> Path:
            self.step("replace")
            return whole_replace(path, target)

        def synced(descriptor: int) -> None:
            self.step("fsync")
            whole_fsync(descriptor)

        with patch.object(Path, "open", opened), patch.object(Path, "replace", replaced), patch.object(os, "fsync", synced):
            yield self


class _Half:
    """A file of which half is on the disk when it is full."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file, self._disk = file, disk

    def __enter__(self) -> "_Half":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, content: bytes) -> None:
        try:
            self._disk.step("write")
        except OSError:
            self._file.write(content[: len(content) // 2])
            raise
        self._file.write(content)


@pytest.fixture
def case(small_case: Callable[..., Case]) -> Case:
    return small_case(settings=("attack.steps=2",))


def count(compute: Callable[..., Record], case: Case, output: Path) -> int:
    with Disk().in_use() as disk:
        compute(case, output=output)
    assert {name: disk.steps.count(name) for name in STEPS}.keys() == set(STEPS)
    assert len({disk.steps.count(name) for name in STEPS}) == 1, "every write has all four steps"
    return len(disk.steps)


def require_whole(folder: Path) -> None:
    """Whatever bears a name of its own is whole."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith(TEMPORARY):
            assert path.stat().st_size or path.name == ".lock", path
            if path.suffix == ".json":
                json.loads(path.read_bytes())
            if path.name == RECORD:
                Record.load(path)


@pytest.mark.integration
@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.nightly) for part in range(1, 7))])
def test_any_write_may_fail_and_the_case_goes_on(part: int, case: Case, compute: Callable[..., Record], tmp_path: Path) -> None:
    steps = count(compute, case, tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    assert steps >= 40
    # One in seven here, the others by night; seven and four have no divisor in common, so that each part has all kinds.
    for failing in range(part, steps, 7):
        output = tmp_path / str(failing)
        with Disk(failing).in_use() as disk, pytest.raises(StoreError, match="No space left on device"):
            compute(case, output=output)
        assert len(disk.steps) == failing + 1
        require_whole(output)
        assert CaseFolder(output, case).record() is None, "no record of a case that was not finished"
        compute(case, output=output)
        assert contents(output) == expected
        assert not list(output.rglob(f"{TEMPORARY}*"))
