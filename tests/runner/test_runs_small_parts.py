"""Provenance, the trace, pictures that are not there, and interruptions."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from privbench.computing.interrupt import Interrupted, interruptible
from privbench.core import ComputeOptions, UserError
from privbench.runner.pictures import read_picture
from privbench.runner.provenance import repository_commit, take_provenance
from privbench.store.trace import trace_csv


def test_the_trace_is_empty_where_a_loss_was_not_reported() -> None:
    batches = [[(1, "early", {"a": 0.1}), (2, "late, later", {"b": 1e-320, "a": 2.0})], [], [(1, "early", {"c": float("nan")})]]
    assert trace_csv(batches) == ('batch,step,phase,a,b,c\n0,1,early,0.1,,\n0,2,"late, later",2.0,1e-320,\n2,1,early,,,nan\n')


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    answer = subprocess.run(("git", *identity, *words), cwd=folder, capture_output=True, text=True, check=True)
    return answer.stdout.strip()


def test_the_commit_is_that_of_the_repository_itself(tmp_path: Path) -> None:
    assert repository_commit(tmp_path) is None
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert repository_commit(tmp_path) == head
    (tmp_path / "untracked").write_text("")
    assert repository_commit(tmp_path) == head
    (tmp_path / "file").write_text("two")
    assert repository_commit(tmp_path) == f"{head}-dirty"
    (tmp_path / "inside").mkdir()
    assert repository_commit(tmp_path / "inside") is None


def test_provenance_names_the_machine() -> None:
    compute = ComputeOptions(compile="on", precision="tf32")
    taken = take_provenance(compute, 1.5, group=3)
    assert taken.device.startswith("cpu")
    # What the CPU computes is never TF32, whatever was asked for.
    assert (taken.compile, taken.precision, taken.group) == ("on", "fp32", 3)
    twice = replace(compute, devices=(torch.device("cpu"),) * 2)
    assert take_provenance(twice, 1.5, group=3).device == f"2 x {taken.device}"
    assert taken.torch == torch.__version__
    assert taken.seconds == 1.5
    assert taken.finished.endswith("+00:00")


def test_a_case_without_pictures_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has a record and no pictures, as in a pack; compute the case in a folder, with"):
        read_picture(tmp_path / "pack.jsonl.gz" / "case" / "reconstructions" / "a.png")
    with pytest.raises(UserError, match=r"cannot read the picture .*; compute the case again with --force"):
        read_picture(tmp_path / "a.png")


class Finalised:
    """An object at whose end a signal arrives."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)
        sum(range(100))  # the handler runs here


def lose_one_and_wait(number: int) -> None:
    victim = Finalised(number)
    del victim
    time.sleep(60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_finaliser_stops_all_the_same_and_is_not_printed(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    hook, handlers = sys.unraisablehook, [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted) as stopped, interruptible():
        lose_one_and_wait(number)
    assert stopped.value.number == number
    assert printed == []
    assert sys.unraisablehook is hook
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers


class Failing:
    """An object whose finaliser fails for another reason."""

    def __del__(self) -> None:
        raise ValueError("not a signal")


def test_other_errors_of_finalisers_are_still_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: printed.append(str(dropped.exc_value)))
    with interruptible():
        victim = Failing()
        del victim
    assert printed == ["not a signal"]
