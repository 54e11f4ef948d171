"""What failure means: a row with the worst scores, or an error and no record."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from privbench.core import (
    AttackError,
    Case,
    Observation,
    Progress,
    Reconstruction,
    Record,
    UserError,
)
from privbench.runner.context import load_case
from privbench.runner.pictures import ShownCase
from tests.runner.acting import CPU, Acting
from tests.runner.watching import Watcher


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("memory", "OutOfMemoryError: out of memory, tried to allocate 2 GiB"),
        ("float", "FloatingPointError: the first line"),
        ("pixels", "attack test-failing returned non-finite pixels"),
        ("loss", "the loss mean is not finite"),
    ],
)
def test_a_failed_attack_is_a_row_with_the_worst_scores_and_a_reason(
    how: str, reason: str, small_case: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    case = small_case(attack=f"test-failing:how={how}", batch_size=2)
    watcher = Watcher()
    shown: list[ShownCase] = []

    def draw(case: ShownCase) -> bytes:
        shown.append(case)
        return b""

    record = compute(case, listener=watcher, draw=draw)
    assert [image.failure for image in record.images] == [reason] * 2
    assert [(image.scores["psnr"], image.scores["ssim"], image.scores["mse"]) for image in record.images] == [(0, 0, 1)] * 2
    assert [image.reconstruction for image in record.images] == [None] * 2
    assert (record.summary["psnr"].mean, record.summary["psnr"].n) == (0, 2)
    assert "failed-images" in record.flags
    assert any(reason in note for note in watcher.notes)
    assert shown[0].reconstructions == (None, None)
    assert (tmp_path / case.folder / "trace.csv").read_text() == "batch,step,phase,mean\n0,1,only,0.5\n"


@pytest.mark.parametrize("error", [RuntimeError("shapes differ\nat line 3"), ZeroDivisionError("by zero"), KeyError("name")])
def test_an_attack_that_breaks_ends_the_run_without_a_record(
    error: Exception,
    acting: type[Acting],
    small_case: Callable[..., Case],
    compute: Callable[..., Record],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def act(observation: Observation, generator: torch.Generator, progress: Progress) -> Reconstruction:
        raise error

    monkeypatch.setattr(acting, "act", act)
    with pytest.raises(AttackError, match=f"attack test-acting broke: {type(error).__name__}: ") as caught:
        compute(small_case(attack="test-acting"))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("record.json"))


def test_one_failed_batch_does_not_stop_the_others(
    acting: type[Acting], small_case: Callable[..., Case], compute: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def act(observation: Observation, generator: torch.Generator, progress: Progress) -> Reconstruction:
        calls.append(1)
        if len(calls) == 1:
            raise torch.linalg.LinAlgError("bad luck")  # type: ignore[attr-defined]
        return Reconstruction(images=torch.full((1, *observation.image_shape), 0.5))

    monkeypatch.setattr(acting, "act", act)
    record = compute(small_case(attack="test-acting"))
    assert [image.failure for image in record.images] == ["_LinAlgError: bad luck", None]
    assert record.summary["psnr"].mean == pytest.approx(record.images[1].scores["psnr"] / 2)


def test_a_users_error_inside_an_attack_is_not_a_failed_row(
    acting: type[Acting],
    small_case: Callable[..., Case],
    compute: Callable[..., Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def act(observation: Observation, generator: torch.Generator, progress: Progress) -> Reconstruction:
        raise UserError("not for this model")

    monkeypatch.setattr(acting, "act", act)
    with pytest.raises(UserError, match="not for this model"):
        compute(small_case(attack="test-acting"))


def test_an_attack_that_does_not_apply_is_refused_before_anything_is_written(
    small_case: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    case = small_case(batch_size=2, attack="test-walk:largest_batch=1")
    with pytest.raises(UserError, match="at most 1 images"):
        load_case(case, CPU).require()
    with pytest.raises(UserError, match="at most 1 images"):
        compute(case, output=tmp_path / "output")
    assert list(tmp_path.iterdir()) == []


def test_a_prior_that_changed_since_the_case_was_made_is_refused(small_case: Callable[..., Case]) -> None:
    case = small_case().model_copy(update={"prior_weights": {"cnn_mini_32": "0" * 64}})
    with pytest.raises(UserError, match="weights of the prior cnn_mini_32 are not those of the case"):
        load_case(case, CPU)


def test_images_that_changed_since_the_case_was_made_are_refused(compute: Callable[..., Record], tmp_path: Path) -> None:
    from privbench.resolving.options import RunOptions
    from privbench.resolving.resolve import resolve_cases

    data = tmp_path / "data"
    data.mkdir()
    Image.new("RGB", (40, 40), "teal").save(data / "a.png")
    (case,) = resolve_cases(
        RunOptions(defense="none", attack="test-walk", model="test-vit", weights="random", data=str(data), limit=1)
    )
    Image.new("RGB", (40, 40), "orange").save(data / "a.png")
    with pytest.raises(UserError, match="are not those of the case"):
        compute(case)
