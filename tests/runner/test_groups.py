"""Client batches that are attacked together, on one device or several: the same results as one by one, and as robust."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from privbench.computing.devices import run_on_devices
from privbench.computing.interrupt import Interrupted, Interruption
from privbench.core import AttackError, Case, ComputeOptions, Failure, Record
from privbench.store.case_folder import CaseFolder
from privbench.store.checkpoints import BatchGroup, Checkpoints
from tests.runner.plugin.privbench_test_plugin import GroupWalk
from tests.runner.watching import PowerCut, Watcher, results

CPU = torch.device("cpu")


@pytest.fixture
def walk(small_case: Callable[..., Case]) -> Callable[..., Case]:
    """A case of a cheap attack that takes groups."""

    def resolve(limit: int = 4, **parameters: Any) -> Case:
        return small_case(
            attack="test-group-walk", limit=limit, settings=[f"attack.{key}={value}" for key, value in parameters.items()]
        )

    return resolve


def trace(output: Path, case: Case) -> str:
    return (output / case.folder / "trace.csv").read_text()


def groups(watcher: Watcher) -> list[str]:
    return [event for event in watcher.events if event.startswith("group")]


# Grouping


@pytest.mark.parametrize("size", [2, 3, 9, None])
def test_a_group_gives_what_single_attacks_give(
    size: int | None, walk: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    case = walk()
    alone = compute(case, output=tmp_path / "alone", group=1)
    together = compute(case, output=tmp_path / "together", group=size)
    assert results(together) == results(alone)
    assert trace(tmp_path / "together", case) == trace(tmp_path / "alone", case)
    assert len({image.scores["psnr"] for image in alone.images}) == 4
    assert (alone.provenance.group, together.provenance.group) == (1, min(size or 4, 4))


def test_groups_follow_the_order_of_the_case(walk: Callable[..., Case], compute: Callable[..., Record]) -> None:
    watcher = Watcher()
    compute(walk(5, steps=1), group=2, listener=watcher)
    assert watcher.events == [
        "started 5",
        *("group 0,1", "step 0,1.1/1", "batch 0", "batch 1"),
        *("group 2,3", "step 2,3.1/1", "batch 2", "batch 3"),
        *("group 4", "step 4.1/1", "batch 4"),
        "finished",
    ]
    assert "3 runs, compile auto, fp32" in watcher.notes


def test_the_time_of_a_group_is_shared_equally(walk: Callable[..., Case], compute: Callable[..., Record]) -> None:
    record = compute(walk(pause=0.05))
    seconds = {image.seconds for image in record.images}
    assert len(seconds) == 1
    assert 0.2 < sum(image.seconds for image in record.images) < record.provenance.seconds


def test_an_attack_that_takes_one_batch_at_a_time_says_so(
    small_case: Callable[..., Case], compute: Callable[..., Record]
) -> None:
    watcher = Watcher()
    assert compute(small_case(), group=4, listener=watcher).provenance.group == 1
    assert "attack test-walk takes one client batch at a time; --group changes nothing" in watcher.notes


# Failures


def test_a_failure_in_a_group_does_not_touch_the_others(
    small_case: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = small_case(attack="test-group-walk", limit=4, labels="known")
    good = compute(case, output=tmp_path / "good")
    broken = good.images[1].label
    expected = [image.label == broken for image in good.images]
    monkeypatch.setattr(GroupWalk, "failing_label", broken)
    watcher = Watcher()
    record = compute(case, listener=watcher)
    assert 0 < sum(expected) < 4
    assert [image.failure for image in record.images] == [f"label {broken}" if failed else None for failed in expected]
    for image, other in zip(record.images, good.images, strict=True):
        assert image.scores["psnr"] == (0 if image.failure else other.scores["psnr"])
    assert groups(watcher) == ["group 0,1,2,3"]
    assert "failed-images" in record.flags


def test_an_error_of_the_attack_fails_its_group_alone(
    walk: Callable[..., Case], compute: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = GroupWalk.run_group

    def run_group(self: GroupWalk, observations: Sequence[Any], **rest: Any) -> Any:
        if len(observations) == 2:
            raise ArithmeticError("bad luck")
        return original(self, observations, **rest)

    monkeypatch.setattr(GroupWalk, "run_group", run_group)
    record = compute(walk(5), group=3)
    assert [image.failure for image in record.images] == [None] * 3 + ["ArithmeticError: bad luck"] * 2


def test_losses_that_do_not_fit_the_group_are_a_fault_of_the_attack(
    walk: Callable[..., Case], compute: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_group(self: GroupWalk, observations: Sequence[Any], *, progress: Any, **rest: Any) -> Any:
        progress.report(1, 3, "all", {"loss": 1.0})
        progress.report(2, 3, "none")
        progress.report(3, 3, "two", {"loss": 1.0}, {"loss": 2.0})

    monkeypatch.setattr(GroupWalk, "run_group", run_group)
    case = walk(3)
    with pytest.raises(AttackError, match="RuntimeError: the attack reported losses of 2 observations and was given 3"):
        compute(case)


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: out of memory"), torch.OutOfMemoryError("Tried to allocate")])
def test_a_group_that_does_not_fit_is_halved_and_later_ones_stay_small(
    error: Exception,
    walk: Callable[..., Case],
    compute: Callable[..., Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = compute(walk(8), output=tmp_path / "alone", group=1)
    original = GroupWalk.run_group

    def run_group(self: GroupWalk, observations: Sequence[Any], **rest: Any) -> Any:
        if len(observations) > 2:
            raise error
        return original(self, observations, **rest)

    monkeypatch.setattr(GroupWalk, "run_group", run_group)
    watcher = Watcher()
    record = compute(walk(8), group=6, listener=watcher)
    assert results(record) == results(alone)
    assert groups(watcher) == [
        "group 0,1,2,3,4,5",
        "group 0,1,2",
        *("group 0", "group 1", "group 2", "group 3", "group 4", "group 5", "group 6", "group 7"),
    ]
    notes = [note for note in watcher.notes if "out of memory" in note]
    assert notes == [
        "out of memory with groups of 6; continuing with groups of 3",
        "out of memory with groups of 3; continuing with groups of 1",
    ]
    assert record.provenance.group == 1


def test_only_a_group_of_one_fails_for_want_of_memory(walk: Callable[..., Case], compute: Callable[..., Record]) -> None:
    record = compute(walk(memory=1))
    reason = "RuntimeError: DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes"
    assert [image.failure for image in record.images] == [reason] * 4


# Interruption


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("first", [0, 2])
def test_a_continued_group_equals_an_uninterrupted_one(
    first: int, step: int, walk: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    case = walk()
    whole = compute(case, output=tmp_path / "whole", group=2)
    with pytest.raises(SystemExit):
        compute(case, group=2, listener=PowerCut(first, step))
    watcher = Watcher()
    # Without a wish a case goes on with the groups that it began with; `step` was reported and not yet saved.
    assert results(compute(case, listener=watcher, group=None if step == 3 else 2)) == results(whole)
    assert watcher.events[1:3] == [f"group {first},{first + 1}", f"step {first},{first + 1}.{step}/4"]
    assert trace(tmp_path, case) == trace(tmp_path / "whole", case)


def test_a_checkpoint_of_another_grouping_is_not_used(
    walk: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    case = walk()
    whole = compute(case, output=tmp_path / "whole")
    with pytest.raises(SystemExit):
        compute(case, group=4, listener=PowerCut(0, 3))
    watcher = Watcher()
    assert results(compute(case, group=2, listener=watcher)) == results(whole)
    (note,) = [note for note in watcher.notes if "checkpoint" in note]
    assert note.startswith("the checkpoint batches-00000-00003.pt is of groups of 4, these are groups of 2;")
    assert watcher.events[1:3] == ["group 0,1", "step 0,1.1/4"]


class LateCut(Watcher):
    """Ends the run when a batch has been scored."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last

    def batch(self, case: Case, batch: int) -> None:
        super().batch(case, batch)
        if batch == self.last:
            raise SystemExit


def test_a_group_that_was_interrupted_while_it_was_scored_is_continued_whole(
    walk: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    case = walk()
    whole = compute(case, output=tmp_path / "whole")
    with pytest.raises(SystemExit):
        compute(case, listener=LateCut(1))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / case.folder).rglob("batch-*.json")}
    assert len(kept) == 2
    watcher = Watcher()
    assert results(compute(case, listener=watcher)) == results(whole)
    # The attack was through with all four; the first two are not scored again.
    assert watcher.events == ["started 4", "group 0,1,2,3", "batch 2", "batch 3", "finished"]


def test_without_a_checkpoint_only_the_unfinished_batches_of_a_group_are_attacked(
    walk: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    case = walk()
    whole = compute(case, output=tmp_path / "whole")
    with pytest.raises(SystemExit):
        compute(case, listener=LateCut(1), checkpoint_interval=1000.0)
    watcher = Watcher()
    assert results(compute(case, listener=watcher)) == results(whole)
    assert groups(watcher) == ["group 2,3"]


def test_a_checkpoint_that_lacks_a_batch_is_not_used(
    walk: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    case = walk()
    whole = compute(case, output=tmp_path / "whole")
    with pytest.raises(SystemExit):
        compute(case, listener=LateCut(1), checkpoint_interval=1000.0)
    with pytest.raises(SystemExit):
        compute(case, listener=PowerCut(2, 3), group=4)
    folder = CaseFolder(tmp_path, case)
    assert Checkpoints(folder.path, case).interrupted() == [BatchGroup(0, 4)]
    (folder.path / ".work" / "batch-00001.json").unlink()
    watcher = Watcher()
    assert results(compute(case, listener=watcher)) == results(whole)
    assert groups(watcher) == ["group 1,2,3"]
    assert any("batches-00000-00003.pt lacks a batch of its group" in note for note in watcher.notes)


# Several devices


@pytest.mark.parametrize("size", [1, 2, 3, None])
def test_two_devices_give_what_one_gives(
    size: int | None, walk: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    case = walk(5)
    before = torch.random.get_rng_state()
    one = compute(case, output=tmp_path / "one", group=1)
    two = compute(case, output=tmp_path / "two", group=size, devices=[CPU, CPU])
    assert results(two) == results(one)
    assert trace(tmp_path / "two", case) == trace(tmp_path / "one", case)
    # Without a wish, both devices get their share.
    assert two.provenance.group == (size or 3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_two_devices_work_at_the_same_time(walk: Callable[..., Case], compute: Callable[..., Record]) -> None:
    watcher = Watcher()
    record = compute(walk(2, pause=0.1), devices=[CPU, CPU], listener=watcher)
    assert groups(watcher) == ["group 0", "group 1"]
    assert sum(image.seconds for image in record.images) > 0.8
    steps = [event[:6] for event in watcher.events if event.startswith("step")]
    assert steps != sorted(steps)


def test_the_listener_is_never_called_twice_at_once(walk: Callable[..., Case], compute: Callable[..., Record]) -> None:
    inside: list[int] = []

    class Slow(Watcher):
        def at(self, batches: Sequence[int], step: int) -> None:
            inside.append(1)
            assert len(inside) == 1
            time.sleep(0.01)
            inside.clear()

    record = compute(walk(4), group=1, devices=[CPU] * 4, listener=Slow())
    assert not any(image.failure for image in record.images)


def test_a_signal_saves_on_all_devices(walk: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path) -> None:
    case = walk(4, steps=10, pause=0.02)
    whole = compute(case, output=tmp_path / "whole", group=1)

    class CtrlC(Watcher):
        def at(self, batches: Sequence[int], step: int) -> None:
            if (batches[0], step) == (0, 3):
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted) as caught:
        compute(case, group=2, devices=[CPU, CPU], listener=CtrlC(), checkpoint_interval=1000.0)
    assert caught.value.number == signal.SIGINT
    assert Checkpoints(tmp_path / case.folder, case).interrupted() == [BatchGroup(0, 2), BatchGroup(2, 2)]
    # One device goes on with what two had begun.
    watcher = Watcher()
    assert results(compute(case, listener=watcher)) == results(whole)
    assert not {"step 0,1.1/10", "step 2,3.1/10"} & set(watcher.events)
    assert trace(tmp_path, case) == trace(tmp_path / "whole", case)


def test_an_error_on_one_device_stops_the_other_at_its_checkpoint(
    walk: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    case = walk(4, steps=1000, pause=0.01)
    with pytest.raises(SystemExit):
        compute(case, group=2, devices=[CPU, CPU], listener=PowerCut(0, 3), checkpoint_interval=1000.0)
    assert Checkpoints(tmp_path / case.folder, case).interrupted() == [BatchGroup(2, 2)]


def test_both_devices_run_out_of_memory(walk: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path) -> None:
    alone = compute(walk(8, memory=3), output=tmp_path / "alone", group=1)
    watcher = Watcher()
    record = compute(walk(8, memory=3), group=4, devices=[CPU, CPU], listener=watcher)
    assert results(record) == results(alone)
    assert groups(watcher)[:4] == ["group 0,1,2,3", "group 4,5,6,7", "group 0,1", "group 2,3"]
    assert [note for note in watcher.notes if "memory" in note] == [
        "out of memory with groups of 4; continuing with groups of 2"
    ]


def test_what_ended_well_is_handed_back_beside_the_error() -> None:
    def slow() -> str:
        time.sleep(0.05)
        return "done"

    def wrong() -> str:
        raise KeyError("of one job")

    returned, error = run_on_devices([slow, wrong], [CPU, CPU], compute=ComputeOptions(), interruption=Interruption())
    assert returned == ["done", None]
    assert isinstance(error, KeyError)


def test_a_stop_at_once_ends_the_threads_at_their_next_report(
    walk: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attack that never saves cannot be waited for."""
    ended: list[int] = []

    def run_group(self: GroupWalk, observations: Sequence[Any], *, progress: Any, **rest: Any) -> list[Failure]:
        try:
            for step in range(1000):
                progress.report(step, 1000, "only")
                time.sleep(0.01)
        finally:
            ended.append(1)
        return [Failure("too late")] * len(observations)

    class Stop(Watcher):
        def at(self, batches: Sequence[int], step: int) -> None:
            if (batches[0], step) == (0, 5):
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(GroupWalk, "run_group", run_group)
    with pytest.raises(Interrupted) as caught:
        compute(walk(2), group=1, devices=[CPU, CPU], listener=Stop())
    assert caught.value.number == signal.SIGTERM
    assert len(ended) == 2


@pytest.mark.nightly
def test_gradvit_on_two_devices_gives_what_it_gives_on_one(
    small_case: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    case = small_case(attack="gradvit", limit=4, settings=["attack.steps=60", "attack.layers=embedding", "attack.bn_prior=0"])
    one = compute(case, output=tmp_path / "one", group=2)
    two = compute(case, output=tmp_path / "two", group=2, devices=[CPU, CPU])
    assert results(two) == results(one)
