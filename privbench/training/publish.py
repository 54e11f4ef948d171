"""Weights as they are shipped, in half precision, with the card that says how they came to be."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from privbench.core import Defense, UserError
from privbench.models import Victim, VictimCard, file_sha256
from privbench.training.evaluate import accuracy, defended_accuracy
from privbench.training.gradients import precision
from privbench.training.recipe import LabelledImages, TrainingPlan

__all__ = ["not_finite", "publish", "save_weights"]

_TRAINING_IMAGES = 10_000
"""So many of the training images, the first ones, are enough for the training accuracy."""


def not_finite(state: Mapping[str, Tensor]) -> str | None:
    """The first weight with an entry that is no number or infinite, None where there is none."""
    return next((name for name, value in state.items() if not torch.isfinite(value).all()), None)


def save_weights(victim: Victim, path: Path) -> dict[str, Tensor]:
    """Writes the weights rounded to half precision, atomically, and returns them.

    Raises:
        UserError: One is not finite after rounding.
    """
    half = {
        name: value.detach().to("cpu", torch.float16 if value.is_floating_point() else value.dtype).contiguous()
        for name, value in victim.state_dict().items()
    }
    broken = not_finite(half)
    if broken:
        raise UserError(
            f"weight {broken} is not finite in half precision, in which victims are kept; nothing is published; "
            "delete the checkpoint and lower --learning-rate"
        )
    temporary = path.with_name(f".{path.name}.partial")
    save_file(half, str(temporary))
    temporary.chmod(0o644)
    temporary.replace(path)
    return half


def publish(
    victim: Victim,
    defense: Defense,
    plan: TrainingPlan,
    training: LabelledImages,
    test: LabelledImages,
    path: Path,
    *,
    command: str,
    seconds: float,
    steps: int,
    generator: torch.Generator,
) -> VictimCard:
    """Writes weights and card; the card's accuracies are those of the weights as shipped.

    Args:
        victim: As trained; holds the rounded weights afterwards.
        defense: That of the plan.
        plan: The settings.
        training: Training images.
        test: Test images.
        path: The weights file; the card gets its name.
        command: The command that repeats it.
        seconds: Training time.
        steps: Updates that were made.
        generator: Source of the defense's choices on test images.
    """
    victim.load_state_dict(save_weights(victim, path))
    accounted = defense.accounted(steps=steps, sample_rate=plan.batch_size / len(training.images))
    seen = slice(_TRAINING_IMAGES)
    card = VictimCard(
        model=plan.model,
        defense="+".join(map(str, plan.defense)),
        dataset=plan.dataset,
        accuracy=accuracy(victim, test.images, test.labels),
        defended_accuracy=defended_accuracy(victim, defense, test.images, test.labels, generator),
        test_images=len(test.images),
        epochs=plan.epochs,
        recipe=plan.recipe | {"images": len(training.images), "precision": precision(victim.mean.device.type)},
        command=command,
        parameters=sum(parameter.numel() for parameter in victim.parameters()),
        sha256=file_sha256(path),
        torch=torch.__version__,
        device=str(victim.mean.device),
        seconds=round(seconds, 1),
        guarantee=accounted.guarantee(),
        training_accuracy=accuracy(victim, training.images[seen], training.labels[seen]),
    )
    text = json.dumps(dataclasses.asdict(card), indent=2) + "\n"
    path.with_suffix(".json").write_text(text, encoding="utf-8")
    return card
