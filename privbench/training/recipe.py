"""What decides the outcome of a training run: the plan, the images, and the views of the images that the victim is trained on.

One recipe serves all victims, so that their accuracies compare. Runs of a few epochs need no augmentation; longer ones see
crops and flips, or more, and may learn from a teacher, a network trained before (Hinton et al., arXiv 1503.02531; DeiT, Touvron
et al., ICML 2021).
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from privbench.core import ComponentSpec, UserError, build_defense
from privbench.models import Victim
from privbench.training.augment import Border, erase, mix, random_crop_and_flip, trivial_augment
from privbench.training.gradients import mixed_precision

__all__ = ["EpochReport", "LabelledImages", "TrainingPlan", "Views"]

_CROP_PADDING = 4
_TEACHER_BATCH = 4096


@dataclass(frozen=True)
class LabelledImages:
    """`images` `[n, 3, height, width]` uint8, `labels` `[n]` int64."""

    images: Tensor
    labels: Tensor

    def fingerprint(self) -> str:
        """SHA-256 of the images, of their labels and of how many there are, as `ImageSet.fingerprint` has it of a case's."""
        digest = hashlib.sha256(f"{len(self.images)} images of {self.images.shape[-1]}\n".encode())
        for image, label in zip(self.images.cpu(), self.labels.tolist(), strict=True):
            digest.update(image.permute(1, 2, 0).numpy().tobytes())
            digest.update(label.to_bytes(8, "little"))
        return digest.hexdigest()

    def to(self, device: torch.device) -> "LabelledImages":
        """The same on another device."""
        return LabelledImages(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class EpochReport:
    """Where training stands after a number of batches of an epoch; `loss` is the mean over the epoch so far."""

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float


class TrainingPlan(BaseModel):
    """Everything that decides the outcome of a training run, beside the images."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str
    defense: tuple[ComponentSpec, ...]
    dataset: str
    num_classes: int
    epochs: Annotated[int, Field(gt=0)] = 10
    batch_size: Annotated[int, Field(gt=0)] = 128
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the steps during which the learning rate rises; then it falls as a cosine."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient."""
    augmentation: Literal["none", "flip", "trivial"] = "flip"
    """`none`: images as they are; `flip`: crops and flips; `trivial`: one operation of TrivialAugment as well.

    Crops are black where they leave the image. Where the model has batch normalisation they go on with the image's reflection:
    statistics of black borders fit no photo."""
    erasing: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the images of which a rectangle is erased."""
    mixing: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the images that are mixed with another one, by mixup or CutMix."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of every label that is spread over all classes."""
    teacher: str | None = None
    """Which network's predictions are part of the labels; None: no network's."""
    teacher_weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Their part."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @property
    def defense_name(self) -> str:
        """The names of the composed defenses."""
        return "+".join(part.name for part in self.defense)

    @property
    def recipe(self) -> dict[str, float | int | str]:
        """The hyper-parameters of the card, without those that are off."""
        fields = {"batch_size", "learning_rate", "weight_decay", "rise", "clip", "augmentation", "seed"}
        fields |= {name for name in ("erasing", "mixing", "smoothing") if getattr(self, name)}
        fields |= {"teacher", "teacher_weight"} if self.teacher else set()
        return self.model_dump(include=fields)

    def require_possible(self, images: int) -> None:
        """Raises `UserError` where the plan does not fit the number of training images or its defense."""
        if images < self.batch_size:
            raise UserError(f"{images} training images are fewer than one batch of {self.batch_size}; lower --batch-size")
        defense = build_defense(self.defense)
        defense.require_batch(self.batch_size)
        if defense.uses_per_sample_gradients() and (self.mixing or self.teacher):
            raise UserError(
                f"defense {self.defense_name} bounds what each image adds, which mixed images and a teacher that has seen them "
                "would spoil; leave out --mixing and --teacher"
            )


@dataclass(frozen=True)
class Views:
    """What a plan makes of images and labels before a batch is fed.

    Attributes:
        plan: The settings.
        teacher: Its teacher, on the images' device in eval mode.
        border: What comes in where crops leave the image.
    """

    plan: TrainingPlan
    teacher: Victim | None = None
    border: Border = "constant"

    @torch.no_grad()
    def of(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augments, mixes, and asks the teacher.

        Args:
            images: `[n, 3, height, width]` uint8.
            labels: `[n]` int64.
            generator: On the CPU or the images' device.

        Returns:
            `[n, 3, height, width]` in [0, 1], and the targets: `[n]` int64, or `[n, classes]` probabilities.
        """
        plan = self.plan
        if plan.augmentation != "none":
            images = random_crop_and_flip(images, _CROP_PADDING, generator, self.border)
        views = images.float() / 255
        if plan.augmentation == "trivial":
            views = trivial_augment(views, generator)
        if plan.erasing:
            views = erase(views, plan.erasing, generator)
        if not (plan.mixing or plan.smoothing or self.teacher):
            return views, labels
        targets = nn.functional.one_hot(labels, plan.num_classes).float()
        targets = (1 - plan.smoothing) * targets + plan.smoothing / plan.num_classes
        if plan.mixing:
            views, targets = mix(views, targets, plan.mixing, generator)
        if self.teacher is not None:
            targets = (1 - plan.teacher_weight) * targets + plan.teacher_weight * _predictions(self.teacher, views)
        return views, targets


def _predictions(teacher: Victim, views: Tensor) -> Tensor:
    """`[n, classes]` probabilities."""
    with mixed_precision(views.device.type):
        logits = torch.cat([teacher(part) for part in torch.split(views, _TEACHER_BATCH)])
    return logits.float().softmax(1)
