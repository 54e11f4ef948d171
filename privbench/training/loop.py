"""The steps of a training: each is one client's update, which the defense changes before recipe and optimiser get it.

AdamW with one cycle of the learning rate, augmented images, bf16 where the device has it (weights in fp32), clipped gradients.
Images lie on the device, and no step waits for a value.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch import Tensor, nn

from privbench.client import sample_gradients
from privbench.core import Defense, ModelInput, UserError, build_defense
from privbench.models import Victim, build_model, default_spec
from privbench.training.gradients import LossGradient, mixed_precision
from privbench.training.recipe import EpochReport, LabelledImages, TrainingPlan, Views

__all__ = ["TrainingLoop"]

_VIEWED_AT_ONCE = 8192
"""Images on a GPU that are augmented together: small operations cost as much as large ones there."""
_REPORTED = 25
"""Batches between two reports, at which the loss is read and checked."""


class TrainingLoop:
    """A training run: its model, optimiser and random source, which are saved and restored together.

    A checkpoint belongs to a plan and to training images: of other images it would be another run, and an accountant of privacy
    would count with a number of images that no step has seen.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        device: torch.device,
        total_steps: int,
        *,
        teacher: Victim | None = None,
        compiled: bool = False,
    ) -> None:
        self.generator = torch.Generator().manual_seed(plan.seed)
        self.view_generator = torch.Generator(device).manual_seed(plan.seed)
        self.defense: Defense = build_defense(plan.defense)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.seed)
            victim = build_model(default_spec(plan.model, num_classes=plan.num_classes))
            self.defense.prepare_model(victim)
            self.defense.initialise_training(victim)
            self.extra_loss: nn.Module | None = self.defense.extra_loss(victim)
        self.victim: Victim = victim.to(device)
        if device.type == "cuda" and not self.defense.uses_per_sample_gradients():
            _use_fused_attention(self.victim)
        exempt = {"network.pos_embed", "network.cls_token"} - set(self.defense.decayed_weights())
        groups = param_groups_weight_decay(victim, plan.weight_decay, no_weight_decay_list=tuple(exempt))
        self.rules = self.defense.training_rules(victim)
        groups, self.rule_groups = _with_own_groups(groups, victim, {name for rule in self.rules for name in rule.names})
        if self.extra_loss is not None:
            self.extra_loss.to(device)
            groups.append({"params": list(self.extra_loss.parameters()), "weight_decay": 0.0})
        self.optimizer = torch.optim.AdamW(groups, plan.learning_rate, fused=True)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, plan.learning_rate, total_steps=total_steps, pct_start=plan.rise
        )
        normalises = any(isinstance(module, nn.BatchNorm2d) for module in self.victim.modules())
        self.views = Views(
            plan, teacher.to(device).eval() if teacher is not None else None, "reflect" if normalises else "constant"
        )
        self.gradient = LossGradient(self.victim, compiled=compiled)
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
            "view_generator": self.view_generator.get_state(),
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
        self.view_generator.set_state(state["view_generator"])

    def train_epoch(self, plan: TrainingPlan, data: LabelledImages, report: Callable[[EpochReport], None]) -> None:
        """As many steps as there are whole batches in the data, which lie on the device."""
        batches = len(data.images) // plan.batch_size
        self.victim.train()
        total = torch.zeros((), device=self.victim.mean.device)
        for number, (images, labels) in enumerate(self._batches(data, plan.batch_size)):
            progress = (self.epoch + number / batches) / plan.epochs
            total = total + self._step(images, labels, progress, plan)
            if (number + 1) % _REPORTED == 0 or number + 1 == batches:
                mean = float(total) / (number + 1)
                if not abs(mean) < float("inf"):
                    raise UserError(f"training diverged at {progress:.1%} (loss {mean}); lower --learning-rate")
                report(EpochReport(self.epoch + 1, plan.epochs, number + 1, batches, mean))
        self.epoch += 1

    def _batches(self, data: LabelledImages, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented images in [0, 1] and targets of an epoch's batches."""
        device = self.victim.mean.device
        together = max(1, _VIEWED_AT_ONCE // batch_size) if device.type == "cuda" else 1
        drawn = list(self._drawn(len(data.images), batch_size))
        for start in range(0, len(drawn), together):
            parts = drawn[start : start + together]
            chosen = torch.cat(parts).to(device)
            views, targets = self.views.of(data.images[chosen], data.labels[chosen], self.view_generator)
            sizes = [len(part) for part in parts]
            yield from zip(torch.split(views, sizes), torch.split(targets, sizes), strict=True)

    def _drawn(self, count: int, batch_size: int) -> Iterator[Tensor]:
        """An epoch's batches, as indices of images: all images in random order without the last, smaller batch.

        A defense on single samples gets every image independently with the same probability (Poisson sampling), as its
        accountant assumes; the size of a batch then varies and may be 0.
        """
        if self.defense.uses_per_sample_gradients():
            for _ in range(count // batch_size):
                yield (torch.rand(count, generator=self.generator) < batch_size / count).nonzero().flatten()
            return
        order = torch.randperm(count, generator=self.generator)
        for number in range(count // batch_size):
            yield order[number * batch_size : (number + 1) * batch_size]

    def _step(self, images: Tensor, labels: Tensor, progress: float, plan: TrainingPlan) -> Tensor:
        """One client's update and what the server makes of it; returns the loss, a scalar.

        Training losses of the defense carry nothing of the images (`client.observe`) and come after the update.

        Args:
            images: `[batch, 3, height, width]` in [0, 1], on the device.
            labels: `[batch]` int64, or `[batch, classes]` probabilities.
            progress: From 0 to 1.
            plan: The settings.
        """
        fed = self.defense.training_batch(self.victim, ModelInput(images), self.generator, progress).model_input
        gradients, loss = self._update(fed, labels, plan.batch_size)
        with torch.no_grad():
            sent = self.defense.protect_gradients(gradients, self.generator)
        self.optimizer.zero_grad()
        for name, parameter in self.victim.named_parameters():
            parameter.grad = sent.get(name)
        self._set_rates(sent)
        if self.extra_loss is not None:
            extra = self.extra_loss(self.victim, fed, progress)
            extra.backward()
            loss = loss + extra.detach()
        nn.utils.clip_grad_norm_(self.victim.parameters(), plan.clip)
        self.optimizer.step()
        self.schedule.step()
        return loss

    def _update(self, fed: ModelInput, labels: Tensor, batch_size: int) -> tuple[dict[str, Tensor], Tensor]:
        """The gradient by parameter name, as far as the defense takes single samples protected, and the mean loss."""
        if not self.defense.uses_per_sample_gradients():
            return self.gradient(fed, labels)
        # A cache of casts would outlive the functional transform.
        with mixed_precision(fed.images.device.type, cache=False):
            samples, losses = sample_gradients(self.victim, fed, labels)
        return self.defense.protect_samples(samples, self.generator, batch_size), losses.sum() / max(1, len(losses))

    @torch.no_grad()
    def _set_rates(self, sent: dict[str, Tensor]) -> None:
        """Lets the defense's rules set learning rates of this step; the schedule sets the next ones anew."""
        for rule in self.rules:
            for name in rule.names:
                group = self.optimizer.param_groups[self.rule_groups[name]]
                group["lr"] = rule.rate(group["params"][0], sent[name], group["lr"])


def _use_fused_attention(victim: Victim) -> None:
    """Models are built without it, because it has no second derivatives; training needs none."""
    for module in victim.modules():
        if hasattr(module, "fused_attn"):
            cast(Any, module).fused_attn = True


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
