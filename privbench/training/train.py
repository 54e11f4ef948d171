"""Trains a victim under a defense: one recipe for all of them, so that their accuracies compare.

AdamW with one cycle of the learning rate, random crops and flips, bf16 autocast on CUDA (fp32 weights), gradient clipping.
Every step is one client's update: what the defense makes of its gradient is what the recipe clips and the optimiser gets. The
state is kept after every epoch, and a run that is started again goes on from there.
"""

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch import Tensor, nn

from privbench.client import sample_gradients
from privbench.core import ComponentSpec, Defense, ModelInput, UserError, build_defense
from privbench.models import Victim, VictimCard, build_model, client_loss, default_spec, embedded_name, file_sha256
from privbench.training.augment import random_crop_and_flip
from privbench.training.evaluate import accuracy, defended_accuracy

__all__ = ["EpochReport", "LabelledImages", "TrainingPlan", "train"]

_CROP_PADDING = 4
_CALIBRATION_IMAGES = 10_000


@dataclass(frozen=True)
class LabelledImages:
    """`images` `[n, 3, height, width]` uint8, `labels` `[n]` int64."""

    images: Tensor
    labels: Tensor

    def fingerprint(self) -> str:
        """SHA-256 of the images, of their labels and of how many there are, as `ImageSet.fingerprint` has it of a case's."""
        digest = hashlib.sha256(f"{len(self.images)} images of {self.images.shape[-1]}\n".encode())
        for image, label in zip(self.images, self.labels.tolist(), strict=True):
            digest.update(image.permute(1, 2, 0).cpu().numpy().tobytes())
            digest.update(label.to_bytes(8, "little"))
        return digest.hexdigest()


@dataclass(frozen=True)
class EpochReport:
    """Where training stands after a number of batches of an epoch."""

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
    batch_size: Annotated[int, Field(gt=0)] = 108
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the steps during which the learning rate rises."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @property
    def defense_name(self) -> str:
        """The names of the composed defenses."""
        return "+".join(part.name for part in self.defense)


class _Run:
    """A training run: its model, optimiser and random source, which are saved and restored together.

    A checkpoint belongs to a plan and to training images: of other images it would be another run, and an accountant of privacy
    would count with a number of images that no step has seen.
    """

    def __init__(self, plan: TrainingPlan, device: torch.device, total_steps: int) -> None:
        self.generator = torch.Generator().manual_seed(plan.seed)
        self.defense: Defense = build_defense(plan.defense)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.seed)
            victim = build_model(default_spec(plan.model, num_classes=plan.num_classes))
            self.defense.prepare_model(victim)
            self.extra_loss: nn.Module | None = self.defense.extra_loss(victim)
        self.victim: Victim = victim.to(device)
        groups = param_groups_weight_decay(
            victim, plan.weight_decay, no_weight_decay_list=("network.pos_embed", "network.cls_token")
        )
        self.rules = self.defense.training_rules(victim)
        groups, self.rule_groups = _with_own_groups(groups, victim, {name for rule in self.rules for name in rule.names})
        if self.extra_loss is not None:
            self.extra_loss.to(device)
            groups.append({"params": list(self.extra_loss.parameters()), "weight_decay": 0.0})
        self.optimizer = torch.optim.AdamW(groups, plan.learning_rate, fused=True)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, plan.learning_rate, total_steps=total_steps, pct_start=plan.rise
        )
        self.epoch = 0
        self.seconds = 0.0

    def _stateful(self) -> dict[str, Any]:
        parts = {"victim": self.victim, "optimizer": self.optimizer, "schedule": self.schedule}
        return parts if self.extra_loss is None else parts | {"extra_loss": self.extra_loss}

    def save(self, path: Path, plan: TrainingPlan, images: Mapping[str, int | str]) -> None:
        """Writes the checkpoint atomically; `images` says what the run is trained on."""
        state: dict[str, Any] = {name: part.state_dict() for name, part in self._stateful().items()}
        state |= {
            "plan": plan.model_dump_json(),
            "images": dict(images),
            "epoch": self.epoch,
            "seconds": self.seconds,
            "generator": self.generator.get_state(),
        }
        temporary = path.with_name(f".{path.name}.partial")
        torch.save(state, temporary)
        temporary.replace(path)

    def restore(self, path: Path, plan: TrainingPlan, images: Mapping[str, int | str]) -> None:
        """Goes on from a checkpoint.

        Raises:
            UserError: It belongs to another plan or to other images, is of an earlier version, or is broken.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            settings = state["plan"]
        except Exception as error:  # a truncated file raises almost anything
            raise UserError(f"the checkpoint {path} is broken ({type(error).__name__}); delete it to start over") from None
        if settings != plan.model_dump_json():
            raise UserError(f"the checkpoint {path} belongs to other settings; delete it or choose another --output")
        before = state.get("images")
        if before != images:
            known = f"{before['count']} other training images" if before else "training images that it does not name"
            given = f"given: {images['count']}, sha256 {str(images['sha256'])[:12]}"
            raise UserError(f"the checkpoint {path} belongs to {known} ({given}); delete it or choose another --output")
        for name, part in self._stateful().items():
            part.load_state_dict(state[name])
        self.epoch, self.seconds = state["epoch"], state["seconds"]
        self.generator.set_state(state["generator"])

    def train_epoch(self, plan: TrainingPlan, data: LabelledImages, report: Callable[[EpochReport], None]) -> None:
        """As many steps as there are whole batches in the data."""
        device = self.victim.mean.device
        batches = len(data.images) // plan.batch_size
        self.victim.train()
        for number, chosen in enumerate(self._drawn(len(data.images), plan.batch_size)):
            images = random_crop_and_flip(data.images[chosen], _CROP_PADDING, self.generator)
            progress = (self.epoch + number / batches) / plan.epochs
            loss = self._step(images.to(device), data.labels[chosen].to(device), progress, plan)
            report(EpochReport(self.epoch + 1, plan.epochs, number + 1, batches, loss))
        self.epoch += 1

    def _drawn(self, count: int, batch_size: int) -> Iterator[Tensor]:
        """An epoch's batches, as indices of images: all images in random order without the last, smaller batch.

        A defense on single samples gets every image independently with the same probability (Poisson sampling), as its
        accountant assumes; the size of a batch then varies and may be 0.
        """
        if self.defense.takes_samples():
            for _ in range(count // batch_size):
                yield (torch.rand(count, generator=self.generator) < batch_size / count).nonzero().flatten()
            return
        order = torch.randperm(count, generator=self.generator)
        for number in range(count // batch_size):
            yield order[number * batch_size : (number + 1) * batch_size]

    def _step(self, images: Tensor, labels: Tensor, progress: float, plan: TrainingPlan) -> float:
        """One client's update and what the server makes of it; returns the loss.

        Training losses of the defense carry nothing of the images (`client.observe`) and come after the update.
        """
        batch = ModelInput(images.float() / 255)
        fed = self.defense.training_batch(self.victim, batch, self.generator, progress).model_input
        gradients, loss = self._update(fed, labels, plan.batch_size)
        if not math.isfinite(loss):
            raise UserError(f"training diverged at {progress:.1%} (loss {loss}); lower --learning-rate")
        with torch.no_grad():
            sent = self.defense.protect_gradients(gradients, self.generator)
        self.optimizer.zero_grad()
        for name, parameter in self.victim.named_parameters():
            parameter.grad = sent.get(name)
        self._set_rates(sent)
        if self.extra_loss is not None:
            extra = self.extra_loss(self.victim, fed, progress)
            extra.backward()
            loss += float(extra.detach())
        nn.utils.clip_grad_norm_(self.victim.parameters(), plan.clip)
        self.optimizer.step()
        self.schedule.step()
        return loss

    def _update(self, fed: ModelInput, labels: Tensor, batch_size: int) -> tuple[dict[str, Tensor], float]:
        """The gradient by parameter name, as far as the defense takes single samples protected, and the mean loss."""
        device = fed.images.device.type
        if self.defense.takes_samples():
            # A cache of casts would outlive the functional transform.
            with _mixed(device, cache=False):
                samples, losses = sample_gradients(self.victim, fed, labels)
            mean = float(losses.sum() / max(1, len(losses)))
            return self.defense.protect_samples(samples, self.generator, batch_size), mean
        with _mixed(device):
            loss = client_loss(self.victim, fed, labels)
        parameters = dict(self.victim.named_parameters())
        values = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        return {name: one for name, one in zip(parameters, values, strict=True) if one is not None}, float(loss.detach())

    @torch.no_grad()
    def _set_rates(self, sent: dict[str, Tensor]) -> None:
        """Lets the defense's rules set learning rates of this step; the schedule sets the next ones anew."""
        for rule in self.rules:
            for name in rule.names:
                group = self.optimizer.param_groups[self.rule_groups[name]]
                group["lr"] = rule.rate(group["params"][0], sent[name], group["lr"])


def _mixed(device: str, *, cache: bool = True) -> torch.autocast:
    """bf16 where the device has it: most CPUs emulate it, more than ten times slower than float32."""
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda", cache_enabled=cache)


def _with_own_groups(
    groups: list[dict[str, Any]], model: nn.Module, names: set[str]
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Takes weights out of the optimiser's groups into groups of their own, so that they can have learning rates of their own.

    Returns:
        The groups, and which of them each of the weights has.
    """
    own = {id(parameter): name for name, parameter in model.named_parameters() if name in names}
    shared = [group | {"params": [one for one in group["params"] if id(one) not in own]} for group in groups]
    alone = [(own[id(one)], group | {"params": [one]}) for group in groups for one in group["params"] if id(one) in own]
    return [*shared, *(group for _, group in alone)], {name: len(shared) + i for i, (name, _) in enumerate(alone)}


@torch.no_grad()
def calibrate_batch_norm(victim: Victim, images: Tensor) -> None:
    """Sets the batch-normalisation statistics to the plain averages over clean images (uint8), where the model has any.

    Running averages of training describe augmented images and weights that have moved on since; as an image prior the
    statistics should be those of photographs under the final weights.
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
) -> VictimCard:
    """Trains, evaluates and writes `MODEL.DEFENSE.safetensors` (half precision) with its card `MODEL.DEFENSE.json`.

    Args:
        plan: The settings.
        training: Training images.
        test: Test images; nothing is chosen by them.
        output: Folder for weights, card and checkpoint; made if missing.
        device: Where to train.
        command: The command that repeats this, for the card.
        report: Called after every batch.

    Returns:
        The card.

    Raises:
        UserError: Too few images for a batch, labels out of range, divergence, a checkpoint of other settings or other images.
    """
    if len(training.images) < plan.batch_size:
        raise UserError(
            f"{len(training.images)} training images are fewer than one batch of {plan.batch_size}; lower --batch-size"
        )
    build_defense(plan.defense).require_batch(plan.batch_size)
    for kind, labels in (("training", training.labels), ("test", test.labels)):
        if labels.min() < 0 or labels.max() >= plan.num_classes:
            raise UserError(
                f"{kind} labels from {int(labels.min())} to {int(labels.max())}; accepted: 0 to {plan.num_classes - 1}, one "
                "per class of the training images; choose data whose splits have the same classes"
            )
    output.mkdir(parents=True, exist_ok=True)
    stem = embedded_name(plan.model, plan.defense_name)
    checkpoint = output / f"{stem}.checkpoint.pt"
    run = _Run(plan, device, plan.epochs * (len(training.images) // plan.batch_size))
    trained_on: dict[str, int | str] = {"count": len(training.images), "sha256": training.fingerprint()}
    if checkpoint.exists():
        run.restore(checkpoint, plan, trained_on)
    while run.epoch < plan.epochs:
        started = time.monotonic()
        run.train_epoch(plan, training, report)
        run.seconds += time.monotonic() - started
        broken = _not_finite(run.victim.state_dict())
        if broken:
            raise UserError(f"training diverged in epoch {run.epoch} (weight {broken} is not finite); lower --learning-rate")
        run.save(checkpoint, plan, trained_on)
    calibrate_batch_norm(run.victim, training.images[:_CALIBRATION_IMAGES])
    return _publish(run, plan, len(training.images), test, output / f"{stem}.safetensors", command)


def _not_finite(state: Mapping[str, Tensor]) -> str | None:
    """The first weight with an entry that is no number or infinite, None where there is none."""
    return next((name for name, value in state.items() if not torch.isfinite(value).all()), None)


def _publish(run: _Run, plan: TrainingPlan, images: int, test: LabelledImages, path: Path, command: str) -> VictimCard:
    victim = run.victim
    # What is evaluated is what is shipped: the weights after rounding to half precision.
    half = {
        name: value.detach().to("cpu", torch.float16 if value.is_floating_point() else value.dtype).contiguous()
        for name, value in victim.state_dict().items()
    }
    broken = _not_finite(half)
    if broken:
        raise UserError(
            f"weight {broken} is not finite in half precision, in which victims are kept; nothing is published; "
            "delete the checkpoint and lower --learning-rate"
        )
    victim.load_state_dict(half)
    temporary = path.with_name(f".{path.name}.partial")
    save_file(half, str(temporary))
    temporary.chmod(0o644)
    temporary.replace(path)
    accounted = run.defense.accounted(steps=run.schedule.total_steps, sample_rate=plan.batch_size / images)
    card = VictimCard(
        model=plan.model,
        defense="+".join(map(str, plan.defense)),
        dataset=plan.dataset,
        accuracy=accuracy(victim, test.images, test.labels),
        defended_accuracy=defended_accuracy(victim, run.defense, test.images, test.labels, run.generator),
        test_images=len(test.images),
        epochs=plan.epochs,
        recipe=plan.model_dump(include={"batch_size", "learning_rate", "weight_decay", "rise", "clip", "seed"})
        | {"images": images},
        command=command,
        parameters=sum(parameter.numel() for parameter in victim.parameters()),
        sha256=file_sha256(path),
        torch=torch.__version__,
        device=str(victim.mean.device),
        seconds=round(run.seconds, 1),
        claim=accounted.claim(),
    )
    text = json.dumps(dataclasses.asdict(card), indent=2) + "\n"
    path.with_suffix(".json").write_text(text, encoding="utf-8")
    return card
