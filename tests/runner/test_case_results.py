"""What a finished case holds: scores, pictures, trace, provenance and flags."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from privbench.core import (
    Case,
    InferredChoices,
    Reconstruction,
    Record,
    UserError,
    generator_for,
)
from privbench.models import build_model, default_spec, loading
from privbench.runner.context import load_case
from privbench.runner.listener import StepReport
from privbench.runner.pictures import ShownCase, picture_names, shown_case
from privbench.scoring import bootstrap_interval, psnr, to_uint8
from privbench.tables.cases import footnotes
from tests.runner.acting import CPU, Acting, pixels, secrets
from tests.runner.plugin.privbench_test_plugin import Walk
from tests.runner.watching import PowerCut, Watcher

# What a finished case holds


def test_the_folder_of_a_finished_case(small_case: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path) -> None:
    case = small_case(batch_size=2, limit=4)
    record = compute(case, draw=lambda _: b"picture")
    folder = tmp_path / case.folder
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) == [
        "case.yaml",
        "comparison.png",
        "reconstructions",
        "reconstructions/astronaut.png",
        "reconstructions/chelsea.png",
        "reconstructions/coffee.png",
        "reconstructions/rocket.png",
        "record.json",
        "trace.csv",
    ]
    assert Record.load(folder / "record.json") == record
    assert Case.from_yaml(folder / "case.yaml") == case == record.case
    assert record.case_id == case.identity
    assert [image.batch for image in record.images] == [0, 0, 1, 1]
    assert [image.image for image in record.images] == ["astronaut", "chelsea", "coffee", "rocket"]


def test_scores_and_pictures_are_those_of_what_the_attack_returned(
    small_case: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    case = small_case()
    record = compute(case)
    prepared = load_case(case, CPU)
    for batch, image in enumerate(record.images):
        observation, secret = prepared.observe(batch)
        again = Walk()(observation, generator=generator_for(case, "attack", batch))
        saved = to_uint8(again.images)
        assert image.scores["psnr"] == float(psnr(again.images, secret.images))
        assert image.scores_saved["psnr"] == float(psnr(saved.float() / 255, secret.images))
        assert np.array_equal(pixels(tmp_path / case.folder / str(image.reconstruction)), saved[0].permute(1, 2, 0).numpy())
        assert (image.label, image.recovered_label) == (int(secret.labels[0]), 0)
        assert (image.losses, image.steps) == (dict(again.losses), again.steps)
    assert record.summary["psnr"] == bootstrap_interval([image.scores["psnr"] for image in record.images], seed=case.seed)


def test_pictures_labels_and_scores_follow_the_pairing_of_a_batch(
    acting: type[Acting],
    small_case: Callable[..., Case],
    compute: Callable[..., Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An attack that returns the exact batch in reverse order has found everything."""
    case = small_case(attack="test-acting", batch_size=2)
    (truth,) = secrets(case)
    answer = Reconstruction(images=truth.images.flip(0), labels=truth.labels.flip(0))
    monkeypatch.setattr(acting, "act", lambda *_: answer)
    record = compute(case)
    for image, original in zip(record.images, truth.images, strict=True):
        assert image.scores["psnr"] == 150
        assert image.recovered_label == image.label
        found = pixels(tmp_path / case.folder / str(image.reconstruction))
        assert np.array_equal(found, to_uint8(original[None])[0].permute(1, 2, 0).numpy())


def test_what_an_attack_inferred_is_scored_by_the_pairing_and_kept(
    acting: type[Acting], small_case: Callable[..., Case], compute: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = small_case(attack="test-acting", batch_size=2, defense="naive-shuffle", adversary="aware")
    (truth,) = secrets(case)
    order = truth.choices["naive-shuffle.order"]
    orders = torch.stack([order.roll(1), order])
    answer = Reconstruction(images=truth.images.flip(0), inferred=InferredChoices(order=orders))
    monkeypatch.setattr(acting, "act", lambda *_: answer)
    first, second = compute(case).images
    assert (first.order_accuracy, first.mask_accuracy) == (1.0, None)
    assert second.order_accuracy is not None
    assert second.order_accuracy < 0.2


def test_the_trace_reads_back_exactly(small_case: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path) -> None:
    import pandas as pd

    case = small_case()
    compute(case)
    trace = pd.read_csv(tmp_path / case.folder / "trace.csv", dtype={"mean": str, "late": str})
    assert list(trace.columns) == ["batch", "step", "phase", "mean", "late"]
    assert trace[["batch", "step"]].to_numpy().tolist() == [[0, 1], [0, 2], [0, 3], [0, 4], [1, 1], [1, 2], [1, 3], [1, 4]]
    assert trace["phase"].tolist() == ["early", "early", "late", "late"] * 2
    assert trace["late"].isna().tolist() == [True, True, False, False] * 2
    late = trace[trace["phase"] == "late"]
    assert [float(text) ** 2 for text in late["mean"]] == [float(text) for text in late["late"]]


@pytest.mark.nightly
def test_guesses_on_the_way_are_scored_after_the_attack_also_across_an_interruption(
    small_case: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    import pandas as pd

    case = small_case(attack="gradvit:steps=30,bn_prior=0", defense="none")
    record = compute(case, output=tmp_path / "whole")
    with pytest.raises(SystemExit):
        compute(case, output=tmp_path / "cut", listener=PowerCut(0, 20))
    compute(case, output=tmp_path / "cut")
    whole, cut = (pd.read_csv(tmp_path / name / case.folder / "trace.csv") for name in ("whole", "cut"))
    assert whole["step"].tolist() == [10, 20, 30] * 2
    assert whole["psnr"].notna().all()
    assert cut["psnr"].tolist() == whole["psnr"].tolist()
    last = whole.loc[whole["step"] == 30, "psnr"].tolist()
    assert last == pytest.approx([image.scores_saved["psnr"] for image in record.images], abs=1e-4)


class Onlooker(Watcher):
    """Looks into the case's folder at every report."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.seen: list[tuple[int, ...]] = []

    def step(self, case: Case, at: StepReport) -> None:
        super().step(case, at)
        for path in self.folder.glob(".work/*.png"):
            with Image.open(path) as picture:
                self.seen.append((at.step, *picture.size))


def test_the_present_guess_lies_in_the_folder_while_the_attack_runs(
    small_case: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    case = small_case(attack="adjoint-matching:steps=30,adjoint=free", defense="none", limit=2)
    onlooker = Onlooker(tmp_path / case.folder)
    compute(case, output=tmp_path, listener=onlooker, group=2)
    # Two clients of one image each, side by side; shown after the report of step 10.
    assert onlooker.seen == [(20, 64, 32), (30, 64, 32)]
    assert not (tmp_path / case.folder / ".work").exists()


def test_pixels_are_saved_at_their_size_and_names_become_file_names(compute: Callable[..., Record], tmp_path: Path) -> None:
    from privbench.resolving.options import RunOptions
    from privbench.resolving.resolve import resolve_cases

    data = tmp_path / "data"
    for label, colour in (("cat", "teal"), ("dog", "orange")):
        (data / label).mkdir(parents=True)
        Image.new("RGB", (40, 48), colour).save(data / label / "a b.png")
    (case,) = resolve_cases(
        RunOptions(defense="none", attack="test-walk", model="test-vit", weights="random", data=str(data), limit=2)
    )
    record = compute(case)
    assert [image.image for image in record.images] == ["cat/a b.png", "dog/a b.png"]
    assert [image.reconstruction for image in record.images] == [
        "reconstructions/cat-a-b.png.png",
        "reconstructions/dog-a-b.png.png",
    ]
    assert pixels(tmp_path / case.folder / "reconstructions" / "cat-a-b.png.png").shape == (32, 32, 3)


def test_names_that_would_be_the_same_file_are_told_apart() -> None:
    names = picture_names(["a/b", "a-b", "A-B", "c", ".hidden"])
    assert len({name.lower() for name in names}) == 5
    assert names[3:] == ["reconstructions/c.png", "reconstructions/hidden.png"]


def test_a_defense_that_changes_trained_weights_is_a_flag(
    tmp_path: Path, small_case: Callable[..., Case], compute: Callable[..., Record]
) -> None:
    torch.save(build_model(default_spec("test-vit")).state_dict(), tmp_path / "plain.pth")
    flags = [compute(small_case(weights=str(tmp_path / "plain.pth"), defense=one)).flags for one in ("none", "mjp")]
    assert ["defense-added-after-training" in found for found in flags] == [False, True]
    assert "random-weights" not in flags[1]


def test_a_classifier_that_was_drawn_is_a_flag(
    small_case: Callable[..., Case], compute: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "pretrained_state", lambda spec: build_model(spec).network.state_dict())
    cases = [small_case(weights="pretrained", num_classes=count) for count in (10, 12)]
    assert ["classifier-drawn" in compute(case).flags for case in cases] == [False, True]


def test_provenance_and_flags(small_case: Callable[..., Case], compute: Callable[..., Record]) -> None:
    from privbench import __version__

    record = compute(small_case())
    assert "random-weights" in record.flags
    assert "failed-images" not in record.flags
    assert record.provenance.version == __version__
    assert record.provenance.threads == torch.get_num_threads()
    assert record.provenance.peak_memory_mib > 50
    assert record.provenance.seconds >= sum(image.seconds for image in record.images) > 0
    assert record.unavailable == {}
    assert record.summary["lpips"].mean > 0


# Pictures


def test_a_finished_case_can_be_shown_again(
    small_case: Callable[..., Case], compute: Callable[..., Record], tmp_path: Path
) -> None:
    case = small_case(defense="naive-shuffle", batch_size=2, limit=4)
    shown: list[ShownCase] = []

    def draw(case: ShownCase) -> bytes:
        shown.append(case)
        return b""

    record = compute(case, draw=draw)
    again = shown_case(record, folder=tmp_path / case.folder, device=CPU)
    for one, two in zip(
        (*shown[0].originals, *shown[0].fed, *shown[0].reconstructions),
        (*again.originals, *again.fed, *again.reconstructions),
        strict=True,
    ):
        assert one is not None
        assert two is not None
        assert np.array_equal(one, two)
    truth = [image for secret in secrets(case) for image in secret.images]
    for original, fed, private in zip(again.originals, again.fed, truth, strict=True):
        assert np.array_equal(original, to_uint8(private[None])[0].permute(1, 2, 0).numpy())
        # A shuffle moves pixels and changes none.
        assert not np.array_equal(original, fed)
        assert np.array_equal(np.sort(original, axis=None), np.sort(fed, axis=None))
    (tmp_path / case.folder / "reconstructions" / "astronaut.png").unlink()
    with pytest.raises(UserError, match=r"astronaut\.png.*--force"):
        shown_case(record, folder=tmp_path / case.folder, device=CPU)


def test_images_whose_mask_is_empty_say_so_and_no_others(
    small_case: Callable[..., Case], compute: Callable[..., Record]
) -> None:
    published = "mjp:mask_ratio=0.03,smallest_block=8,largest_block=75"
    case = small_case(defense=published, limit=8)
    empty = [not bool(secret.choices["mjp.mask"].any()) for secret in secrets(case)]
    assert 0 < sum(empty) < 8  # 58 % of draws
    record = compute(case)
    assert ["mask-empty" in image.flags for image in record.images] == empty
    assert "mask-empty" in record.flags
    assert any(line.startswith("mjp: mask-empty: ") for line in footnotes([record], ["mjp"]))
    assert "mask-empty" not in compute(small_case(defense="mjp:mask_ratio=0.1", limit=8)).flags
