"""Trains a victim under a defense: one recipe for all of them, so that their accuracies compare.

The state is kept after epochs; a run started again goes on there.
"""

import time
from collections.abc import Callable, Collection
from pathlib import Path

import torch
from torch import nn

from privbench.core import UserError
from privbench.models import Victim, VictimCard, embedded_name
from privbench.training.loop import TrainingLoop
from privbench.training.publish import not_finite, publish, save_weights
from privbench.training.recipe import EpochReport, LabelledImages, TrainingPlan

__all__ = ["train"]

_CALIBRATION_IMAGES = 10_000


@torch.no_grad()
def calibrate_batch_norm(victim: Victim, images: torch.Tensor) -> None:
    """Sets the batch-normalisation statistics to the plain averages over clean images (uint8), where the model has any.

    Running averages of training describe augmented images and weights that have moved on since; as an image prior the
    statistics should be those of photographs under the final weights. Crops with black borders would not stand that
    (docs/research/benchmarks.md), so that such models see none.
    """
    layers = [module for module in victim.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    victim.train()
    if layers:
        for start in range(0, len(images), 500):
            victim(images[start : start + 500].to(victim.mean.device, torch.float32) / 255)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    victim.eval()


def train(
    plan: TrainingPlan,
    training: LabelledImages,
    test: LabelledImages,
    *,
    output: Path,
    device: torch.device,
    command: str,
    report: Callable[[EpochReport], None],
    teacher: Victim | None = None,
    compiled: bool = False,
    checkpoint_seconds: float = 0.0,
    snapshots: Collection[int] = (),
) -> VictimCard:
    """Trains, evaluates and writes `MODEL.DEFENSE.safetensors` (half precision) with its card `MODEL.DEFENSE.json`.

    Args:
        plan: The settings.
        training: Training images.
        test: Test images; nothing is chosen by them.
        output: Folder for weights, card and checkpoint; made if missing.
        device: Where to train.
        command: The command that repeats this, for the card.
        report: Called every few batches and after the last of an epoch.
        teacher: The network that the plan names as teacher, if it names one.
        compiled: Whether to compile the step; worth its half minute on a GPU.
        checkpoint_seconds: A checkpoint is written after epochs that end at least so long after the last one.
        snapshots: Epochs after which the weights are kept as `MODEL.DEFENSE.epochN.safetensors` too.

    Returns:
        The card.

    Raises:
        UserError: Too few images for a batch, labels out of range, divergence, a checkpoint of other settings or other images,
            or behind a snapshot that is asked for, a teacher that the defense does not stand.
    """
    plan.require_possible(len(training.images))
    if (plan.teacher is None) != (teacher is None):
        raise UserError(f"the plan names {plan.teacher or 'no teacher'}, and {'none' if teacher is None else 'one'} is given")
    for kind, labels in (("training", training.labels), ("test", test.labels)):
        if labels.min() < 0 or labels.max() >= plan.num_classes:
            raise UserError(
                f"{kind} labels from {int(labels.min())} to {int(labels.max())}; accepted: 0 to {plan.num_classes - 1}, one "
                "per class of the training images; choose data whose splits have the same classes"
            )
    output.mkdir(parents=True, exist_ok=True)
    stem = embedded_name(plan.model, plan.defense_name)
    checkpoint = output / f"{stem}.checkpoint.pt"
    steps = plan.epochs * (len(training.images) // plan.batch_size)
    run = TrainingLoop(plan, device, steps, teacher=teacher, compiled=compiled)
    trained_on: dict[str, int | str] = {"count": len(training.images), "sha256": training.fingerprint()}
    if checkpoint.exists():
        run.restore(checkpoint, plan, trained_on)
    late = [epoch for epoch in sorted(snapshots) if epoch <= run.epoch and not _snapshot(output, stem, epoch).exists()]
    if late:
        raise UserError(
            f"the checkpoint {checkpoint} is already behind epoch {run.epoch}, and the snapshot after epoch {late[0]} was not "
            "kept; delete it to start over, or leave that epoch out of --snapshots"
        )
    training, test = training.to(device), test.to(device)
    saved = time.monotonic()
    while run.epoch < plan.epochs:
        started = time.monotonic()
        run.train_epoch(plan, training, report)
        run.seconds += time.monotonic() - started
        broken = not_finite(run.victim.state_dict())
        if broken:
            raise UserError(f"training diverged in epoch {run.epoch} (weight {broken} is not finite); lower --learning-rate")
        if time.monotonic() - saved >= checkpoint_seconds or run.epoch == plan.epochs:
            run.save(checkpoint, plan, trained_on)
            saved = time.monotonic()
        if run.epoch in snapshots:
            save_weights(run.victim, _snapshot(output, stem, run.epoch))
    calibrate_batch_norm(run.victim, training.images[:_CALIBRATION_IMAGES])
    return publish(
        run.victim,
        run.defense,
        plan,
        training,
        test,
        output / f"{stem}.safetensors",
        command=command,
        seconds=run.seconds,
        steps=run.schedule.total_steps,
        generator=run.generator,
    )


def _snapshot(output: Path, stem: str, epoch: int) -> Path:
    return output / f"{stem}.epoch{epoch}.safetensors"
