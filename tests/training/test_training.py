"""Training: learns, resumes to the same weights, ships what it evaluated, and writes a true card."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from privbench.core import ModelInput, UserError, build_defense, resolve_defense
from privbench.data import open_images
from privbench.defenses.nog import optimal_learning_rate
from privbench.models import build_model, default_spec, file_sha256, load_victim, resolve_victim
from privbench.training import EpochReport, LabelledImages, TrainingPlan, accuracy, defended_accuracy, train
from privbench.training.gradients import LossGradient, mixed_precision, precision
from privbench.training.loop import TrainingLoop
from privbench.training.recipe import Views
from privbench.training.train import calibrate_batch_norm

CPU = torch.device("cpu")


def _easy(count: int) -> LabelledImages:
    """Dark images are class 0, bright ones class 1: learnable in a few steps."""
    generator = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 60, (count, 3, 32, 32), generator=generator)
    return LabelledImages((noise + labels[:, None, None, None] * 180).to(torch.uint8), labels)


def _plan(defense: str = "none", **changes: object) -> TrainingPlan:
    fields: dict[str, object] = {
        "model": "test-vit",
        "learning_rate": 1e-2,
        "defense": resolve_defense(defense),
        "dataset": "easy",
        "num_classes": 2,
        "epochs": 2,
        "batch_size": 16,
    }
    return TrainingPlan.model_validate(fields | changes)


def _train(plan: TrainingPlan, output: Path, stop_after: int | None = None) -> None:
    def report(now: EpochReport) -> None:
        if stop_after is not None and now.epoch == stop_after + 1:
            raise KeyboardInterrupt

    train(plan, _easy(64), _easy(40), output=output, device=CPU, command="privbench train", report=report)


@pytest.mark.parametrize("defense", ["none", "mjp:mask_ratio=0.3,warm_up=0", "gradient-noise:std=0.001"])
def test_training_learns_and_an_interrupted_run_ends_with_the_same_weights(defense: str, tmp_path: Path) -> None:
    plan = _plan(defense)
    stem = f"test-vit.{plan.defense_name}"
    _train(plan, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _train(plan, tmp_path / "broken", stop_after=1)
    assert not (tmp_path / "broken" / f"{stem}.safetensors").exists()
    _train(plan, tmp_path / "broken")
    weights = [load_file(tmp_path / folder / f"{stem}.safetensors") for folder in ("whole", "broken")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    card = json.loads((tmp_path / "whole" / f"{stem}.json").read_text())
    assert card["accuracy"] > 0.9
    assert card["sha256"] == file_sha256(tmp_path / "whole" / f"{stem}.safetensors")
    assert card["test_images"] == 40


def test_what_is_shipped_loads_as_a_victim_and_has_the_cards_accuracy(tmp_path: Path) -> None:
    _train(_plan("mjp"), tmp_path)
    defense = build_defense(resolve_defense("mjp"))
    path = tmp_path / "test-vit.mjp.safetensors"
    victim = load_victim(resolve_victim("test-vit", str(path), defense, num_classes=2), defense, generator=torch.Generator())
    test = _easy(40)
    card = json.loads(path.with_suffix(".json").read_text())
    assert accuracy(victim, test.images, test.labels) == card["accuracy"]
    assert not any("regressor" in name for name in load_file(path))


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _train(_plan(), tmp_path, stop_after=1)
    with pytest.raises(UserError, match="belongs to other settings"):
        _train(_plan(learning_rate=5e-4), tmp_path)
    checkpoint = tmp_path / "test-vit.none.checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(UserError, match="is broken"):
        _train(_plan(), tmp_path)


@pytest.mark.parametrize("stop_after", [1, None])
def test_a_checkpoint_of_other_images_is_refused_and_leaves_what_was_published(stop_after: int | None, tmp_path: Path) -> None:
    """An accountant would count an epsilon for images that the weights have never seen."""
    plan = _plan("dpsgd")
    if stop_after is None:
        _train(plan, tmp_path)
    else:
        with pytest.raises(KeyboardInterrupt):
            _train(plan, tmp_path, stop_after)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    data = _easy(64)
    fewer = LabelledImages(data.images[:48], data.labels[:48])
    changed = LabelledImages(data.images.clone(), data.labels)
    changed.images[7, 0, 0, 0] += 1
    relabelled = LabelledImages(data.images, 1 - data.labels)
    for other, given in ((fewer, 48), (changed, 64), (relabelled, 64)):
        with pytest.raises(UserError, match=rf"belongs to 64 other training images \(given: {given}, ") as caught:
            train(plan, other, data, output=tmp_path, device=CPU, command="", report=lambda _: None)
        assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    # With the same images it goes on, or is published again.
    _train(plan, tmp_path)


def test_a_checkpoint_that_does_not_name_its_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _train(_plan(), tmp_path, stop_after=1)
    checkpoint = tmp_path / "test-vit.none.checkpoint.pt"
    state = torch.load(checkpoint, weights_only=True)
    torch.save({key: value for key, value in state.items() if key != "images"}, checkpoint)
    with pytest.raises(UserError, match=r"belongs to training images that it does not name .* delete it"):
        _train(_plan(), tmp_path)
    torch.save({"weights": torch.zeros(2)}, checkpoint)
    with pytest.raises(UserError, match="is broken"):
        _train(_plan(), tmp_path)


def test_training_images_have_the_fingerprint_of_a_case_of_them() -> None:
    images = open_images("photos", "test")
    pixels, labels = images.as_tensors(32)
    assert LabelledImages(pixels[:3], labels[:3]).fingerprint() == images.fingerprint(range(3), 32)


# A single step: its loss is that of the first weights, and what the step makes of them shows nowhere but in themselves.
@pytest.mark.parametrize(
    ("weight_decay", "words"),
    [(1e300, "diverged in epoch 1 .weight network.* is not finite"), (1e16, "is not finite in half precision")],
)
def test_weights_that_are_not_finite_are_not_published(weight_decay: float, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as caught:
        _train(_plan(epochs=1, batch_size=64, weight_decay=weight_decay), tmp_path)
    assert "\n" not in str(caught.value)
    assert not [path for path in tmp_path.iterdir() if "checkpoint" not in path.name]


def test_too_few_images_and_too_few_classes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="64 training images are fewer than one batch of 128"):
        _train(_plan(batch_size=128), tmp_path)
    with pytest.raises(UserError, match="defense instahide mixes the images of a batch and needs 4 or more, given 3; raise"):
        _train(_plan("instahide", batch_size=3), tmp_path)
    data = _easy(64)
    wrong = LabelledImages(data.images, data.labels + 5)
    for splits, words in (((wrong, data), "training labels from 5 to 6"), ((data, wrong), "test labels from 5 to 6")):
        with pytest.raises(UserError, match=f"{words}; accepted: 0 to 1") as caught:
            train(_plan(), *splits, output=tmp_path, device=CPU, command="", report=lambda _: None)
        assert "--num-classes" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_accuracy_counts_and_leaves_the_mode_alone(generator: torch.Generator) -> None:
    victim = build_model(default_spec("test-vit")).train()
    images = torch.randint(0, 255, (7, 3, 32, 32), generator=generator, dtype=torch.uint8)
    predicted = victim.eval()(images.float() / 255).argmax(1)
    victim.train()
    labels = predicted.clone()
    labels[:2] = (labels[:2] + 1) % 10
    assert accuracy(victim, images, labels) == pytest.approx(5 / 7)
    assert victim.training
    none = build_defense(resolve_defense("none"))
    assert defended_accuracy(victim, none, images, labels, generator) == pytest.approx(5 / 7)


def test_calibrated_statistics_are_those_of_the_images(generator: torch.Generator) -> None:
    victim = build_model(default_spec("cnn_mini_32"))
    images = torch.randint(0, 255, (600, 3, 32, 32), generator=generator, dtype=torch.uint8)
    calibrate_batch_norm(victim, images[:500])
    state = victim.state_dict()
    normalised = (images[:500].float() / 255 - victim.mean) / victim.std
    feature = torch.nn.functional.conv2d(normalised, state["network.features.0.0.weight"], padding=1)
    assert torch.allclose(state["network.features.0.1.running_mean"], feature.mean((0, 2, 3)), atol=1e-4)
    assert torch.allclose(state["network.features.0.1.running_var"], feature.var((0, 2, 3)), rtol=1e-3)
    assert not victim.training


def test_a_defenses_rules_reach_the_optimiser(tmp_path: Path) -> None:
    plan = _plan("nog:layers=mlp,olr=true", model="vit_mini_patch4_32", learning_rate=1.0)
    run = TrainingLoop(plan, CPU, total_steps=8)
    weights = dict(run.victim.named_parameters())
    names = set(run.rule_groups)
    assert names == {name for name in weights if ".mlp." in name and name.endswith(".weight")}
    in_groups = [id(one) for group in run.optimizer.param_groups for one in group["params"]]
    assert sorted(in_groups) == sorted(id(one) for one in weights.values())
    before = {name: weights[name].detach().clone() for name in names}
    scheduled = run.optimizer.param_groups[0]["lr"]
    data = _easy(16)
    run.victim.train()
    taken: dict[str, float] = {}

    def watched(*_: object) -> None:
        taken.update({name: run.optimizer.param_groups[group]["lr"] for name, group in run.rule_groups.items()})
        taken["shared"] = run.optimizer.param_groups[0]["lr"]

    run.optimizer.register_step_pre_hook(watched)
    run._step(data.images.float() / 255, data.labels, 0.0, _plan(clip=1e9))
    assert taken.pop("shared") == scheduled
    for name, rate in taken.items():
        gradient = weights[name].grad
        assert gradient is not None
        values = torch.linalg.svdvals(gradient)
        assert torch.allclose(values, torch.ones_like(values), atol=1e-4)
        assert rate == optimal_learning_rate(before[name], gradient, scheduled)
    assert any(rate < scheduled for rate in taken.values())
    assert all(group["lr"] == run.optimizer.param_groups[0]["lr"] for group in run.optimizer.param_groups)


@pytest.mark.parametrize("defense", ["nog:layers=embedding,olr=true", "stochastic-layers", "pixel-shuffle", "precode"])
def test_defenses_without_an_embedded_victim_can_be_trained(defense: str, tmp_path: Path) -> None:
    plan = _plan(defense)
    _train(plan, tmp_path)
    card = json.loads((tmp_path / f"test-vit.{plan.defense_name}.json").read_text())
    assert card["defended_accuracy"] > 0.9


# Defenses on the gradient


def _stepped(defense: str, images: Tensor, labels: Tensor, **changes: object) -> dict[str, Tensor]:
    """What the optimiser gets in the first step of a run, by parameter name."""
    plan = _plan(defense, **({"clip": 1e9} | changes))
    run = TrainingLoop(plan, CPU, total_steps=8)
    run.victim.train()
    run._step(images.float() / 255, labels, 0.0, plan)
    return {name: weight.grad for name, weight in run.victim.named_parameters() if weight.grad is not None}


def _norm(gradients: dict[str, Tensor]) -> float:
    return float(torch.stack([value.norm() for value in gradients.values()]).norm())


def _distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return _norm({name: one[name] - other[name] for name in one}) / _norm(other)


def test_a_step_gets_what_the_defense_makes_of_the_gradient() -> None:
    data = _easy(8)
    plain = _stepped("none", data.images, data.labels)
    seen = []
    for text in ("pruning:p=0.5", "sign", "clipping:max_norm=0.01+quantization:bits=3"):
        expected = build_defense(resolve_defense(text)).protect_gradients(dict(plain), torch.Generator())
        seen.append(_distance(_stepped(text, data.images, data.labels), expected))
    assert seen == [0.0, 0.0, 0.0]
    noise = {name: value - plain[name] for name, value in _stepped("gradient-noise", data.images, data.labels).items()}
    whole = torch.cat([value.flatten() for value in noise.values()])
    assert float(whole.std()) == pytest.approx(1e-2, rel=1e-2)


def test_the_recipes_clip_comes_after_the_defense() -> None:
    data = _easy(8)
    assert _norm(_stepped("gradient-noise:std=1", data.images, data.labels, clip=0.5)) == pytest.approx(0.5, rel=1e-4)


def test_single_samples_are_clipped_and_their_sum_is_divided_by_the_expected_size() -> None:
    data = _easy(8)
    text, bound = "dpsgd:noise_multiplier=0,max_grad_norm=", 0.05
    # One sample after another, each in a batch of its own.
    alone = [_stepped(f"{text}{bound}", data.images[[i]], data.labels[[i]], batch_size=1) for i in range(8)]
    assert [_norm(one) for one in alone] == pytest.approx([bound] * 8, rel=1e-3)
    mean = {name: torch.stack([one[name] for one in alone]).mean(0) for name in alone[0]}
    assert _distance(_stepped(f"{text}{bound}", data.images, data.labels, batch_size=8), mean) < 0.02
    half = _stepped(f"{text}{bound}", data.images, data.labels, batch_size=16)
    assert _norm(half) == pytest.approx(_norm(mean) / 2, rel=0.02)
    wide = _stepped(f"{text}1e6", data.images, data.labels, batch_size=8)
    assert _distance(wide, _stepped("none", data.images, data.labels)) < 0.02


def test_batches_of_single_samples_are_drawn_image_by_image_and_others_shuffled() -> None:
    run = TrainingLoop(_plan("mjp+dpsgd"), CPU, total_steps=8)
    drawn = list(run._drawn(1000, 100))
    sizes = torch.tensor([float(len(one)) for one in drawn])
    assert len(drawn) == 10
    assert len(set(sizes.tolist())) > 3
    assert 85 < sizes.mean() < 115
    assert all(len(set(one.tolist())) == len(one) for one in drawn)
    # Independent draws meet again; batches of one order never do.
    assert len(set(torch.cat(drawn).tolist())) < 900
    shuffled = torch.cat(list(TrainingLoop(_plan("sign"), CPU, total_steps=8)._drawn(1003, 100)))
    assert len(set(shuffled.tolist())) == len(shuffled) == 1000


def test_a_batch_without_any_image_is_noise_alone() -> None:
    data = _easy(8)
    sent = _stepped("dpsgd:noise_multiplier=2,max_grad_norm=0.1", data.images[:0], data.labels[:0], batch_size=10)
    whole = torch.cat([value.flatten() for value in sent.values()])
    assert float(whole.std()) == pytest.approx(2 * 0.1 / 10, rel=1e-2)


def test_under_dpsgd_an_interrupted_run_ends_with_the_same_weights_and_its_own_epsilon(tmp_path: Path) -> None:
    plan = _plan("dpsgd:noise_multiplier=0.7,steps=3")
    _train(plan, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _train(plan, tmp_path / "broken", stop_after=1)
    _train(plan, tmp_path / "broken")
    weights = [load_file(tmp_path / folder / "test-vit.dpsgd.safetensors") for folder in ("whole", "broken")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    card = json.loads((tmp_path / "whole" / "test-vit.dpsgd.json").read_text())
    # 64 images in batches of 16 for two epochs.
    counted = build_defense(resolve_defense("dpsgd:noise_multiplier=0.7,steps=8,sample_rate=0.25"))
    assert card["guarantee"] == counted.guarantee()
    assert "8 updates sent, sampling rate 0.25" in card["guarantee"]


def test_batch_normalisation_under_dpsgd_is_refused_in_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose a model without batch normalisation"):
        _train(_plan("dpsgd", model="cnn_mini_32"), tmp_path)


def test_a_step_trains_on_soft_labels_and_on_what_layers_add() -> None:
    """The loss of the first step, with the same weights and draws, by hand and with more weight on the divergence."""
    data = _easy(16)

    def first_loss(defense: str) -> tuple[TrainingLoop, float]:
        plan = _plan(defense)
        run = TrainingLoop(plan, CPU, 10)
        run.victim.train()
        return run, float(run._step(data.images.float() / 255, data.labels, 0.0, plan))

    run, loss = first_loss("mixup")
    victim = TrainingLoop(_plan("mixup"), CPU, 10).victim.train()
    protected = run.defense.prepare_batch(victim, ModelInput(data.images.float() / 255), torch.Generator().manual_seed(0))
    weights = protected.choices["mixup.weights"]
    assert weights.diagonal().min() < 0.99
    with torch.no_grad():
        logs = victim(protected.model_input.images).log_softmax(1)
    by_hand = -(weights @ torch.nn.functional.one_hot(data.labels, 2).float() * logs).sum(1).mean()
    assert loss == pytest.approx(float(by_hand), rel=0.02)
    losses = [first_loss(f"precode:beta={beta}")[1] for beta in (0.0, 1.0, 2.0)]
    assert losses[1] - losses[0] > 1
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=0.02)


# Precision, teachers, mixtures, compilation


@pytest.mark.parametrize(("instruction", "dtype"), [("avx512_bf16", torch.bfloat16), ("avx2", torch.float32)])
def test_a_processor_with_bf16_multiplies_in_it(instruction: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {instruction: True}, raising=False)
    with mixed_precision("cpu"):
        assert torch.nn.functional.linear(torch.ones(1, 2), torch.ones(3, 2)).dtype == dtype
    assert precision("cpu") == {torch.bfloat16: "bf16", torch.float32: "fp32"}[dtype]


def test_without_augmentation_the_victim_sees_the_images_as_they_are(generator: torch.Generator) -> None:
    data = _easy(6)
    plain, _ = Views(_plan(augmentation="none")).of(data.images, data.labels, generator)
    assert torch.equal(plain, data.images.float() / 255)
    shifted, _ = Views(_plan(augmentation="flip")).of(data.images, data.labels, generator)
    assert not torch.equal(shifted, plain)


@pytest.mark.parametrize(("model", "reflected"), [("cnn_mini_32", True), ("vit_mini_patch4_32", False)])
def test_crops_of_models_with_batch_normalisation_have_no_black_borders(
    model: str, reflected: bool, generator: torch.Generator
) -> None:
    run = TrainingLoop(_plan(model=model, augmentation="flip"), CPU, total_steps=8)
    images = torch.randint(1, 255, (32, 3, 32, 32), generator=generator, dtype=torch.uint8)
    views, _ = run.views.of(images, torch.zeros(32, dtype=torch.int64), generator)
    assert bool((views > 0).all()) == reflected


def test_labels_are_smoothed_and_shared_with_the_teacher(generator: torch.Generator) -> None:
    data = _easy(6)
    teacher = build_model(default_spec("test-vit", num_classes=2)).eval()
    plan = _plan(smoothing=0.2, teacher="some network", teacher_weight=0.25)
    views, targets = Views(plan, teacher).of(data.images, data.labels, generator)
    with torch.no_grad():
        predicted = teacher(views).softmax(1)
    smoothed = 0.9 * torch.nn.functional.one_hot(data.labels, 2) + 0.1 * torch.nn.functional.one_hot(1 - data.labels, 2)
    assert torch.allclose(targets, 0.75 * smoothed + 0.25 * predicted, atol=1e-6)
    _, plain = Views(_plan()).of(data.images, data.labels, generator)
    assert torch.equal(plain, data.labels)


def test_a_student_follows_a_teacher_that_knows_better_than_the_labels(tmp_path: Path) -> None:
    _train(_plan(), tmp_path / "teacher")
    none = build_defense(resolve_defense("none"))
    path = str(tmp_path / "teacher" / "test-vit.none.safetensors")
    spec = resolve_victim("test-vit", path, none, num_classes=2)
    teacher = load_victim(spec, none, generator=torch.Generator()).requires_grad_(False)
    data = _easy(64)
    wrong = LabelledImages(data.images, torch.zeros_like(data.labels))
    plan = _plan(teacher="one", teacher_weight=1.0)
    given = {"output": tmp_path / "student", "device": CPU, "command": "", "report": lambda _: None}
    card = train(plan, wrong, _easy(40), teacher=teacher, **given)  # type: ignore[arg-type]
    assert card.accuracy > 0.9
    assert card.recipe["teacher"] == "one"
    assert card.training_accuracy == pytest.approx(0.5, abs=0.1)
    with pytest.raises(UserError, match="the plan names no teacher, and one is given"):
        train(_plan(), wrong, _easy(40), teacher=teacher, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"mixing": 0.5}, {"teacher": "cnn_mini_32"}])
def test_what_mixes_images_is_refused_where_single_samples_are_protected(change: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"dpsgd bounds what each image adds.*leave out --mixing and --teacher"):
        _plan("dpsgd", **change).require_possible(64)
    _plan("sign", **change).require_possible(64)


def test_snapshots_are_the_weights_of_their_epochs(tmp_path: Path) -> None:
    data = _easy(64)
    train(_plan(), data, data, output=tmp_path, device=CPU, command="", report=lambda _: None, snapshots=(1, 2))
    stem = tmp_path / "test-vit.none"
    early, late, shipped = (load_file(f"{stem}{end}.safetensors") for end in (".epoch1", ".epoch2", ""))
    assert all(torch.equal(late[name], shipped[name]) for name in shipped)
    assert not torch.equal(early["network.head.weight"], late["network.head.weight"])
    (tmp_path / f"{stem.name}.epoch1.safetensors").unlink()
    with pytest.raises(UserError, match="the snapshot after epoch 1 was not kept"):
        train(_plan(), data, data, output=tmp_path, device=CPU, command="", report=lambda _: None, snapshots=(1, 2))


@pytest.mark.parametrize("defense", ["none", "mjp:mask_ratio=0.3"])
def test_the_compiled_gradient_is_the_plain_one(defense: str, generator: torch.Generator) -> None:
    victim = TrainingLoop(_plan(defense), CPU, 8).victim.train()
    batch = ModelInput(torch.rand(4, 3, 32, 32, generator=generator))
    batches = [batch]
    if victim.has_unknown_position:
        batches.append(ModelInput(batch.images, torch.arange(64) < 9))
    labels = torch.tensor([[0.3, 0.7]] * 4)
    compiled, plain = LossGradient(victim, compiled=True, backend="aot_eager"), LossGradient(victim, compiled=False)
    for one in batches:
        (found, loss), (expected, same) = compiled(one, labels), plain(one, labels)
        assert compiled.compiled is not None
        assert float(loss) == pytest.approx(float(same), rel=1e-5)
        assert found.keys() == expected.keys()
        assert all(torch.allclose(found[name], expected[name], rtol=1e-3, atol=1e-6) for name in expected)


def test_the_learning_rate_rises_and_falls_once() -> None:
    """One cycle: a cosine from a 25th of the rate to the rate over the first fifth of the steps, then one down to nearly 0."""
    steps, peak = 10, 1e-2
    plan = _plan(learning_rate=peak)
    run = TrainingLoop(plan, CPU, total_steps=steps)
    data = _easy(16)
    run.victim.train()
    taken: list[float] = []
    run.optimizer.register_step_pre_hook(lambda *_: taken.append(run.optimizer.param_groups[0]["lr"]))
    for _ in range(steps):
        run._step(data.images.float() / 255, data.labels, 0.0, plan)
    summit = plan.rise * steps - 1

    def between(start: float, end: float, share: float) -> float:
        return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

    expected = [
        between(peak / 25, peak, step / summit)
        if step <= summit
        else between(peak, peak / 25 / 1e4, (step - summit) / (steps - 1 - summit))
        for step in range(steps)
    ]
    assert taken == pytest.approx(expected, rel=1e-6)
