"""A case becomes a record: what is computed, what is kept, what failure means, and what an attack can reach."""

import gc
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from privbench.computing.interrupt import Interrupted
from privbench.core import (
    ATTACKS,
    Attack,
    AttackError,
    Case,
    Failure,
    InferredChoices,
    Observation,
    Progress,
    Reconstruction,
    Record,
    Secret,
    UserError,
    generator_for,
)
from privbench.models import build_model, default_spec, loading
from privbench.runner.context import CaseContext, load_case
from privbench.runner.listener import StepReport
from privbench.runner.pictures import ShownCase, picture_names, shown_case
from privbench.scoring import bootstrap_interval, psnr, to_uint8
from privbench.store.checkpoints import BatchGroup, Checkpoints
from tests.runner.plugin.privbench_test_plugin import GroupWalk, Walk
from tests.runner.watching import PowerCut, Watcher, results

CPU = torch.device("cpu")

Act = Callable[[Observation, torch.Generator, Progress], Reconstruction]


class Acting(Attack):
    """Does what the test says."""

    name: ClassVar[str] = "test-acting"
    act: ClassVar[Act | None] = None

    def run(self, observation: Observation, *, generator: torch.Generator, progress: Progress) -> Reconstruction:
        act = type(self).act
        assert act is not None
        return act(observation, generator, progress)


@pytest.fixture
def acting(test_attacks: None) -> Iterator[type[Acting]]:
    ATTACKS.register(Acting.name, Acting)
    yield Acting
    ATTACKS.unregister(Acting.name)


def pixels(path: Path) -> Any:
    with Image.open(path) as picture:
        return np.asarray(picture)


def secrets(case: Case) -> list[Secret]:
    prepared = load_case(case, CPU)
    return [prepared.observe(batch)[1] for batch in range(prepared.batches)]


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


# Failures


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


# What an attack can reach


def reachable(*roots: object) -> list[object]:
    """Every object that attributes, containers, closures and bound methods lead to; modules and classes end the walk."""
    seen: dict[int, object] = {}
    pending = list(roots)
    while pending:
        thing = pending.pop()
        if id(thing) in seen or isinstance(thing, type | types.ModuleType):
            continue
        seen[id(thing)] = thing
        if isinstance(thing, types.FunctionType):
            pending.extend(cell.cell_contents for cell in thing.__closure__ or ())
            pending.extend(thing.__defaults__ or ())
        else:
            pending.extend(gc.get_referents(thing))
    return list(seen.values())


def test_nothing_that_an_attack_receives_leads_to_the_secret(
    acting: type[Acting], small_case: Callable[..., Case], compute: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = small_case(attack="test-acting", limit=1, defense="mjp", adversary="oracle")
    (secret,) = secrets(case)
    found: list[object] = []

    def act(observation: Observation, generator: torch.Generator, progress: Progress) -> Reconstruction:
        found.extend(reachable(observation, generator, progress))
        return Reconstruction(images=torch.full((1, *observation.image_shape), 0.5))

    monkeypatch.setattr(acting, "act", act)
    compute(case)
    assert any(isinstance(thing, Observation) for thing in found)
    assert not any(isinstance(thing, Secret | CaseContext) for thing in found)
    shown = [thing for thing in found if isinstance(thing, torch.Tensor) and thing.shape[-3:] == (3, 32, 32)]
    assert shown == []
    tensors = [thing for thing in found if isinstance(thing, torch.Tensor) and thing.numel() == secret.images.numel()]
    assert not any(torch.equal(thing.flatten(), secret.images.flatten()) for thing in tensors)


@pytest.mark.parametrize("devices", [[CPU], [CPU, CPU]], ids=["one device", "two devices"])
def test_nothing_that_a_group_receives_leads_to_the_secret(
    devices: list[torch.device],
    small_case: Callable[..., Case],
    compute: Callable[..., Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = small_case(attack="test-group-walk", limit=4, defense="mjp", adversary="oracle")
    truth = [secret.images.flatten() for secret in secrets(case)]
    found: list[object] = []

    def act(self: GroupWalk, *arguments: object, **keywords: object) -> list[Failure]:
        found.extend(reachable(*arguments, *keywords.values()))
        return [Failure("enough seen")] * 2

    monkeypatch.setattr(GroupWalk, "run_group", act)
    compute(case, group=2, devices=devices)
    assert sum(isinstance(thing, Observation) for thing in found) == 4
    assert not any(isinstance(thing, Secret | CaseContext) for thing in found)
    tensors = [thing.flatten() for thing in found if isinstance(thing, torch.Tensor) and thing.numel() == truth[0].numel()]
    assert not any(torch.equal(tensor, images) for tensor in tensors for images in truth)


def test_the_streams_of_client_and_attack_differ_and_repeat(
    acting: type[Acting], small_case: Callable[..., Case], compute: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []

    def act(observation: Observation, generator: torch.Generator, progress: Progress) -> Reconstruction:
        drawn.append(float(torch.rand((), generator=generator)))
        return Reconstruction(images=torch.full((1, *observation.image_shape), 0.5))

    monkeypatch.setattr(acting, "act", act)
    case = small_case(attack="test-acting")
    compute(case)
    compute(case, force=True)
    assert drawn[:2] == drawn[2:]
    client = [float(torch.rand((), generator=generator_for(case, "client", batch))) for batch in (0, 1)]
    assert len({*drawn, *client}) == 4


def test_random_victims_depend_on_the_seed_alone(small_case: Callable[..., Case]) -> None:
    def weights(**options: Any) -> torch.Tensor:
        return torch.cat([value.flatten() for value in load_case(small_case(**options), CPU).victim.parameters()])

    first = weights()
    assert torch.equal(first, weights(defense="naive-shuffle", attack="test-failing", limit=1))
    assert not torch.equal(first, weights(seed=1))


def test_global_state_is_left_as_found(small_case: Callable[..., Case], compute: Callable[..., Record]) -> None:
    import signal

    before = (torch.random.get_rng_state(), torch.is_grad_enabled(), signal.getsignal(signal.SIGINT))
    compute(small_case())
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (torch.is_grad_enabled(), signal.getsignal(signal.SIGINT)) == before[1:]


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
