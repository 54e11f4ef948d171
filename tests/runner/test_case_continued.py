"""A finished case is not computed again, an interrupted one goes on where it was, and a signal ends it in order."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from privbench.computing.interrupt import Interrupted
from privbench.core import (
    Case,
    Observation,
    Progress,
    Reconstruction,
    Record,
)
from privbench.runner.pictures import ShownCase
from privbench.store.checkpoints import BatchGroup, Checkpoints
from tests.runner.acting import Acting
from tests.runner.plugin.privbench_test_plugin import Walk
from tests.runner.watching import PowerCut, Watcher, results

# Finished cases, force


def test_a_finished_case_is_not_computed_again(
    small_case: Callable[..., Case], compute: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = small_case()
    record = compute(case)

    def forbidden(*arguments: object, **keywords: object) -> None:
        raise AssertionError("the attack ran again")

    monkeypatch.setattr(Walk, "run", forbidden)
    watcher = Watcher()
    assert compute(case, listener=watcher) == record
    assert watcher.events == ["reused"]


def test_force_computes_again_from_the_beginning(
    small_case: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    case = small_case()
    record = compute(case)
    stray = tmp_path / case.folder / "reconstructions" / "stray.png"
    stray.write_bytes(b"of an earlier version")
    watcher = Watcher()
    again = compute(case, listener=watcher, force=True)
    assert results(again) == results(record)
    assert watcher.events[0] == "started 2"
    assert watcher.events[-1] == "finished"
    assert not stray.exists()


def test_a_damaged_record_is_reported_and_the_case_computed_again(
    small_case: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    case = small_case()
    record = compute(case)
    (tmp_path / case.folder / "record.json").write_text("{")
    watcher = Watcher()
    assert results(compute(case, listener=watcher)) == results(record)
    assert any("damaged or of another version" in note for note in watcher.notes)


# Interruption


@pytest.mark.parametrize("where", [(0, 1), (0, 3), (1, 2), (1, 4)])
def test_a_continued_case_equals_an_uninterrupted_one(
    where: tuple[int, int], small_case: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    case = small_case()
    record = compute(case, output=tmp_path / "whole", draw=draw_all)

    with pytest.raises(SystemExit):
        compute(case, output=tmp_path / "cut", listener=PowerCut(*where), draw=draw_all)
    folder = tmp_path / "cut" / case.folder
    assert not (folder / "record.json").exists()
    watcher = Watcher()
    continued = compute(case, output=tmp_path / "cut", listener=watcher, draw=draw_all)
    assert results(continued) == results(record)
    for name in ("trace.csv", "case.yaml", "comparison.png", "reconstructions/astronaut.png", "reconstructions/chelsea.png"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / case.folder / name).read_bytes()
    # Finished batches are kept, and an interrupted one continues after its last checkpoint.
    assert watcher.events[1:3] == [f"group {where[0]}", f"step {where[0]}.{where[1]}/4"]
    assert not (folder / ".work").exists()


def draw_all(shown: ShownCase) -> bytes:
    parts = [*shown.originals, *shown.fed, *(picture for picture in shown.reconstructions if picture is not None)]
    return b"".join(part.tobytes() for part in parts)


def test_time_before_an_interruption_counts(small_case: Callable[..., Case], compute: Callable[..., Record]) -> None:
    case = small_case(limit=1, settings=("attack.pause=0.1",))

    with pytest.raises(SystemExit):
        compute(case, listener=PowerCut(0, 4))
    assert 0.4 < compute(case).images[0].seconds < 0.8


def test_a_damaged_checkpoint_starts_the_batch_over(
    small_case: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    case = small_case()
    record = compute(case, output=tmp_path / "whole")

    with pytest.raises(SystemExit):
        compute(case, listener=PowerCut(1, 3))
    state = tmp_path / case.folder / ".work" / "batches-00001-00001.pt"
    state.write_bytes(state.read_bytes()[:500])
    watcher = Watcher()
    assert results(compute(case, listener=watcher)) == results(record)
    (note,) = [note for note in watcher.notes if "damaged" in note]
    assert "batches-00001-00001.pt" in note
    assert "starts over" in note
    assert watcher.events[1:3] == ["group 1", "step 1.1/4"]


def test_checkpoints_are_not_closer_than_the_interval(
    small_case: Callable[..., Case], compute: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    original = Checkpoints.save_checkpoint

    def counting(self: Checkpoints, group: BatchGroup, *rest: Any) -> None:
        saved.append(group.first)
        original(self, group, *rest)

    monkeypatch.setattr(Checkpoints, "save_checkpoint", counting)
    compute(small_case(seed=1), checkpoint_interval=0.0)
    assert saved == [0] * 4 + [1] * 4
    saved.clear()
    compute(small_case(seed=2), checkpoint_interval=1000.0)
    assert saved == []
    compute(small_case(seed=3, limit=1, settings=("attack.pause=0.06", "attack.steps=6")), checkpoint_interval=0.1)
    assert saved == [0] * 3


# Signals


def test_a_signal_waits_for_the_next_checkpoint(
    small_case: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    import os
    import signal

    class CtrlC(Watcher):
        def at(self, batches: Sequence[int], step: int) -> None:
            if (*batches, step) == (0, 3):
                os.kill(os.getpid(), signal.SIGINT)

    case = small_case()
    whole = compute(case, output=tmp_path / "whole")
    watcher = CtrlC()
    with pytest.raises(Interrupted) as caught:
        compute(case, listener=watcher, checkpoint_interval=1000.0)
    assert caught.value.number == signal.SIGINT
    assert watcher.events[-1] == "step 0.3/4"
    # The interval was not over, and yet the step of the signal is kept.
    continued = Watcher()
    assert results(compute(case, listener=continued)) == results(whole)
    assert continued.events[2] == "step 0.4/4"


def test_a_second_signal_stops_at_once(
    acting: type[Acting], small_case: Callable[..., Case], compute: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import signal

    reached: list[str] = []

    def act(observation: Observation, generator: torch.Generator, progress: Progress) -> Reconstruction:
        progress.save({})
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append("after the first")
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append("after the second")
        raise RuntimeError("not reached")

    monkeypatch.setattr(acting, "act", act)
    with pytest.raises(Interrupted) as caught:
        compute(small_case(attack="test-acting"), checkpoint_interval=1000.0)
    assert caught.value.number == signal.SIGTERM
    assert reached == ["after the first"]


def test_a_signal_stops_at_once_an_attack_that_never_saves(
    acting: type[Acting], small_case: Callable[..., Case], compute: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import signal

    def act(observation: Observation, generator: torch.Generator, progress: Progress) -> Reconstruction:
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("not reached")

    monkeypatch.setattr(acting, "act", act)
    with pytest.raises(Interrupted):
        compute(small_case(attack="test-acting"))
