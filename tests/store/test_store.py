"""A folder is complete exactly when it holds a record; nothing is ever half-written; two processes do not write one case."""

import errno
import multiprocessing
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from privbench.core import Case, ImageResult, Record, UserError
from privbench.store.case_folder import CaseFolder
from privbench.store.checkpoints import BatchGroup, Checkpoint, Checkpoints, FinishedBatch, _onto
from privbench.store.files import atomic_write, check_output
from privbench.store.layout import find_records
from privbench.store.local import FolderStore

CPU = torch.device("cpu")
SLOT = BatchGroup(2, 2)


def everything_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def kept(folder: CaseFolder) -> Checkpoints:
    return Checkpoints(folder.path, folder.case)


# Atomic writes


def test_a_file_is_written_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    atomic_write(tmp_path / "new" / "file", b"content")
    assert (tmp_path / "new" / "file").read_bytes() == b"content"
    assert everything_below(tmp_path) == ["new", "new/file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_old_file_and_no_temporary_one(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atomic_write(tmp_path / "file", b"old")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match=r"cannot write .*file: No space left on device"):
        atomic_write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert everything_below(tmp_path) == ["file"]


def test_links_are_written_through_and_devices_and_pipes_stay(tmp_path: Path) -> None:
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to("target")
    atomic_write(link, b"content")
    assert link.is_symlink()
    assert (tmp_path / "target").read_bytes() == b"content"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=r"cannot write .*pipe"):
        atomic_write(pipe, b"nobody reads")
    assert pipe.is_fifo()
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        atomic_write(pipe, b"content")
        assert os.read(reader, 100) == b"content"
    finally:
        os.close(reader)
    device = tmp_path / "device"
    device.symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left on device"):
        atomic_write(device, b"content")
    assert device.is_symlink()
    assert Path("/dev/full").is_char_device()


def test_new_files_follow_the_users_mask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


# The output folder


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="is a file; choose a folder"):
            check_output(output)


def test_a_read_only_output_is_refused_and_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The superuser may write anywhere, so the answer of the system is given here.
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    with pytest.raises(UserError, match=r"cannot write to .*below: .* is read-only; choose another --output"):
        check_output(tmp_path / "below")
    assert everything_below(tmp_path) == []


def test_an_output_where_no_folder_can_be_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(UserError, match=r"cannot write to .*below: No space left on device in .*; choose another --output"):
        check_output(tmp_path / "below")
    check_output(tmp_path)
    assert everything_below(tmp_path) == []


def test_checking_an_output_does_not_make_it(tmp_path: Path) -> None:
    check_output(tmp_path / "a" / "b")
    assert everything_below(tmp_path) == []


# The lock


def hold(output: Path, case: Case, held: Any, release: Any) -> None:
    with CaseFolder(output, case).locked():
        held.set()
        release.wait(30)


@pytest.mark.integration
def test_a_second_process_is_kept_out(small_case: Callable[..., Case], tmp_path: Path) -> None:
    case = small_case()
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, case, held, release))
    other.start()
    try:
        assert held.wait(60)
        with pytest.raises(UserError, match="another process computes"), CaseFolder(tmp_path, case).locked():
            pass
    finally:
        release.set()
        other.join()
    assert other.exitcode == 0
    with CaseFolder(tmp_path, case).locked():
        pass


def test_a_folder_in_which_nothing_was_written_is_gone_afterwards(small_case: Callable[..., Case], tmp_path: Path) -> None:
    folder = CaseFolder(tmp_path / "a" / "b", small_case())
    with folder.locked():
        assert folder.path.is_dir()
    assert everything_below(tmp_path) == []


def test_leftovers_of_a_killed_process_are_swept(small_case: Callable[..., Case], tmp_path: Path) -> None:
    folder = CaseFolder(tmp_path, small_case())
    (folder.path / "reconstructions").mkdir(parents=True)
    (folder.path / "reconstructions" / ".privbench-0123").write_bytes(b"half")
    (folder.path / "kept.txt").write_text("mine")
    with folder.locked():
        pass
    assert everything_below(folder.path) == ["kept.txt", "reconstructions"]


def test_a_folder_that_cannot_be_made_is_refused(
    small_case: Callable[..., Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*arguments: object, **keywords: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(UserError, match="Read-only file system"), CaseFolder(tmp_path, small_case()).locked():
        pass


# Checkpoints


def checkpoint() -> Checkpoint:
    generator = torch.Generator().manual_seed(3)
    state = {
        "pixels": torch.randn(2, 3, 4, 4, generator=generator),
        "double": torch.randn(3, dtype=torch.float64, generator=generator),
        "generator": generator.get_state(),
        "step": 7,
        "rate": 0.1,
        "phase": "late",
        "nested": [{"moment": torch.zeros(1)}, (1, 2.5, None, True)],
    }
    traces = ((), ((1, "early", {"loss": 0.1}), (2, "late", {"loss": 1e-17, "other": float("inf")})))
    pictures: tuple[dict[int, torch.Tensor], ...] = ({}, {10: torch.full((1, 3, 2, 2), 7, dtype=torch.uint8)})
    return Checkpoint((2, 3), state, traces, 1.25, pictures)


def same(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(two) and len(one) == len(two) and all(map(same, one, two))
    return bool(one == two) and type(one) is type(two)


def test_a_checkpoint_comes_back_exactly(small_case: Callable[..., Case], tmp_path: Path) -> None:
    folder = CaseFolder(tmp_path, small_case())
    kept(folder).save_checkpoint(SLOT, CPU, checkpoint())
    restored, problem = kept(folder).load_checkpoint(SLOT, CPU)
    assert problem is None
    assert restored is not None
    assert same(dict(restored.state), dict(checkpoint().state))
    assert same(restored.pictures, checkpoint().pictures)
    assert (restored.batches, restored.traces, restored.seconds) == ((2, 3), checkpoint().traces, 1.25)
    assert kept(folder).load_checkpoint(BatchGroup(0, 2), CPU) == (None, None)
    kept(folder).drop_checkpoint(SLOT)
    assert kept(folder).load_checkpoint(SLOT, CPU) == (None, None)


def test_slots_count_from_the_first_batch_and_are_known_by_their_checkpoints(
    small_case: Callable[..., Case], tmp_path: Path
) -> None:
    assert [BatchGroup.of(batch, 3).first for batch in range(7)] == [0, 0, 0, 3, 3, 3, 6]
    assert list(BatchGroup.of(4, 3).batches) == [3, 4, 5]
    folder = CaseFolder(tmp_path, small_case())
    assert kept(folder).interrupted() == []
    slots = [BatchGroup(0, 1), BatchGroup(7, 1), BatchGroup(2, 2), BatchGroup(100_000, 200)]
    for slot in reversed(slots):
        kept(folder).save_checkpoint(slot, CPU, checkpoint())
    (folder.path / ".work" / "other.pt").write_bytes(b"")
    assert kept(folder).interrupted() == slots


def test_only_what_was_on_the_accelerator_moves_to_this_runs_device() -> None:
    storage = torch.zeros(2).untyped_storage()
    assert _onto(CPU)(storage, "cuda:3") is storage
    assert _onto(torch.device("cuda"))(storage, "cpu") is storage
    assert _onto(torch.device("meta"))(storage, "cuda:0").device.type == "meta"


@pytest.mark.parametrize("damage", ["truncated", "empty", "noise", "other"])
def test_a_damaged_checkpoint_is_reported_and_not_used(damage: str, small_case: Callable[..., Case], tmp_path: Path) -> None:
    folder = CaseFolder(tmp_path, small_case())
    kept(folder).save_checkpoint(SLOT, CPU, checkpoint())
    (path,) = (folder.path / ".work").iterdir()
    whole = path.read_bytes()
    if damage == "other":
        torch.save({"hello": 1}, path)
    else:
        path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "noise": b"not a checkpoint"}[damage])
    restored, problem = kept(folder).load_checkpoint(SLOT, CPU)
    assert restored is None
    assert problem is not None
    assert "\n" not in problem
    assert f"{path} is damaged" in problem


def test_a_checkpoint_never_runs_code(small_case: Callable[..., Case], tmp_path: Path) -> None:
    folder = CaseFolder(tmp_path, small_case())
    kept(folder).save_checkpoint(SLOT, CPU, checkpoint())
    (path,) = (folder.path / ".work").iterdir()
    torch.save({"state": Unpickled(tmp_path / "executed")}, path)
    assert kept(folder).load_checkpoint(SLOT, CPU)[0] is None
    assert not (tmp_path / "executed").exists()


class Unpickled:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_a_checkpoint_of_another_batch_version_or_device_is_not_used(
    small_case: Callable[..., Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CaseFolder(tmp_path, small_case())
    kept(folder).save_checkpoint(SLOT, CPU, checkpoint())
    (path,) = (folder.path / ".work").iterdir()
    assert "of another device (cpu, here cuda)" in str(kept(folder).load_checkpoint(SLOT, torch.device("cuda"))[1])
    other = BatchGroup(4, 2)
    path.rename(path.with_name(other.file_name))
    assert "of other batches (2, 3)" in str(kept(folder).load_checkpoint(other, CPU)[1])
    monkeypatch.setattr("privbench.store.checkpoints.__version__", "9")
    assert "of another version" in str(kept(folder).load_checkpoint(other, CPU)[1])


# Batches


def finished(folder: CaseFolder) -> FinishedBatch:
    folder.write("reconstructions/a.png", b"picture")
    image = ImageResult(
        image="a",
        batch=0,
        label=1,
        recovered_label=None,
        scores={"psnr": 0.1 + 0.2},
        scores_saved={"psnr": 1 / 3},
        losses={"loss": 1e-300},
        steps=3,
        seconds=0.7,
        reconstruction="reconstructions/a.png",
    )
    return FinishedBatch((image,), ((1, "early", {"loss": 2 / 3}), (2, "late", {"loss": float("inf")})), 0.7, 2)


def test_a_finished_batch_comes_back_exactly(small_case: Callable[..., Case], tmp_path: Path) -> None:
    folder = CaseFolder(tmp_path, small_case())
    batch = finished(folder)
    kept(folder).save_batch(0, batch)
    assert kept(folder).load_batch(0) == (batch, None)
    assert kept(folder).load_batch(1) == (None, None)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"images": [{}], "trace": [], "seconds": 1}'])
def test_a_damaged_batch_is_reported_and_not_used(content: bytes, small_case: Callable[..., Case], tmp_path: Path) -> None:
    folder = CaseFolder(tmp_path, small_case())
    kept(folder).save_batch(0, finished(folder))
    (folder.path / ".work" / "batch-00000.json").write_bytes(content)
    batch, problem = kept(folder).load_batch(0)
    assert batch is None
    assert "batch-00000.json is damaged" in str(problem)


def test_a_batch_without_its_picture_is_not_used(small_case: Callable[..., Case], tmp_path: Path) -> None:
    folder = CaseFolder(tmp_path, small_case())
    kept(folder).save_batch(0, finished(folder))
    (folder.path / "reconstructions" / "a.png").unlink()
    batch, problem = kept(folder).load_batch(0)
    assert batch is None
    assert "a.png is missing" in str(problem)


# Records


def test_only_the_record_of_this_very_case_counts(
    small_case: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    case, other = small_case(limit=1), small_case(limit=1, seed=1)
    record = compute(case)
    assert CaseFolder(tmp_path, case).record() == record
    folder = CaseFolder(tmp_path, other)
    assert folder.record() is None
    assert not folder.has_unusable_record()
    folder.write("record.json", record.to_json().encode())
    assert folder.record() is None
    assert folder.has_unusable_record()


def test_records_are_found_at_any_depth_in_a_fixed_order(tmp_path: Path) -> None:
    for place in ("b/record.json", "a/z/record.json", "a/record.json"):
        atomic_write(tmp_path / place, b"")
    assert [str(path.relative_to(tmp_path)) for path in find_records(tmp_path)] == [
        "a/record.json",
        "a/z/record.json",
        "b/record.json",
    ]


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no record"):
        find_records(tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        find_records(tmp_path / "absent")


@pytest.mark.parametrize("name", ["record.json", "case.yaml"])
def test_a_pipe_among_results_is_refused_and_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=rf"cannot read the file .*{re.escape(name)}: it is no regular file"):
        FolderStore(tmp_path).read(name)
    assert FolderStore(tmp_path).read("absent.json") is None
    assert FolderStore(tmp_path).read(f"{name}/below") is None
