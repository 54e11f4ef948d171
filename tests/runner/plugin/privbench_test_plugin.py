"""Attacks and a victim for tests, registered through entry points as a third party's would be; nothing is matched or learnt."""

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from privbench import core
from privbench.core import Attack, ComputeOptions, Failure, GroupAttack, Observation, Progress, Reconstruction, UserError
from privbench.models import Architecture


class Walk(Attack):
    """A random walk of the pixels: slow on demand, checkpointed, and as random as an optimiser with restarts."""

    name: ClassVar[str] = "test-walk"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"short": {}, "long": {"steps": 60}}

    steps: Annotated[int, Field(gt=0)] = 4
    """Steps of the walk."""
    pause: Annotated[float, Field(ge=0)] = 0.0
    """Seconds of sleep per step."""
    largest_batch: int = 64
    """Larger batches are refused."""

    def require(self, observation: Observation) -> None:
        """Refuses large batches."""
        if observation.batch_size > self.largest_batch:
            raise UserError(f"attack test-walk takes at most {self.largest_batch} images; use a smaller --batch-size")

    def run(self, observation: Observation, *, generator: torch.Generator, progress: Progress) -> Reconstruction:
        """Walks; the state is the pixels, the step and the generator."""
        images = torch.rand(observation.batch_size, *observation.image_shape, generator=generator)
        first = 0
        state = progress.restore()
        if (log := os.environ.get("PRIVBENCH_TEST_LOG")) is not None:
            # One short write to the end of a file is whole, whoever else writes.
            with Path(log).open("a", encoding="utf-8") as file:
                file.write(f"{'begun' if state is None else 'continued'} {float(images.sum())}\n")
        if state is not None:
            images, first = state["images"], state["step"]
            generator.set_state(state["generator"])
        for step in range(first, self.steps):
            images = (images + 0.1 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
            time.sleep(self.pause)
            loss = float(images.mean()) / 3
            late = {"late": loss**2} if step >= self.steps // 2 else {}
            progress.report(step + 1, self.steps, "late" if late else "early", {"mean": loss, **late})
            progress.save({"images": images, "step": step + 1, "generator": generator.get_state()})
        labels = torch.zeros(observation.batch_size, dtype=torch.int64)
        return Reconstruction(images=images, labels=labels, losses={"mean": float(images.mean())}, steps=self.steps)


class GroupWalk(GroupAttack):
    """Several walks side by side; where one goes depends on its own observation and generator."""

    name: ClassVar[str] = "test-group-walk"

    steps: Annotated[int, Field(gt=0)] = 4
    """Steps of the walk."""
    pause: Annotated[float, Field(ge=0)] = 0.0
    """Seconds of sleep per step."""
    best: Annotated[int, Field(gt=0)] = 4
    """The best size of a group."""
    memory: Annotated[int, Field(ge=0)] = 1000
    """With so many observations or more the memory is full, at the second step."""
    failing_label: ClassVar[int | None] = None
    """Observations with this known label come to nothing; no parameter, so that the case stays the same."""

    def group_size(self, observation: Observation) -> int:
        """As it was told."""
        return self.best

    def run_group(
        self,
        observations: Sequence[Observation],
        *,
        generators: Sequence[torch.Generator],
        progress: Progress,
        compute: ComputeOptions,
    ) -> list[Reconstruction | Failure]:
        """Walks; the state is that of all walks."""
        progress.note(f"{compute.expected_groups} runs, compile {compute.compile}, {compute.precision}")
        images = [
            torch.rand(observation.batch_size, *observation.image_shape, generator=generator)
            + observation.gradients["network.head.bias"].sum()
            for observation, generator in zip(observations, generators, strict=True)
        ]
        first = 0
        if (state := progress.restore()) is not None:
            images, first = list(state["images"]), state["step"]
            for generator, saved in zip(generators, state["generators"], strict=True):
                generator.set_state(saved)
        for step in range(first, self.steps):
            if step == 1 and len(observations) >= self.memory:
                raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes")
            for place, generator in enumerate(generators):
                images[place] = (images[place] + 0.1 * torch.randn(images[place].shape, generator=generator)).clamp(0, 1)
            time.sleep(self.pause)
            phase = "early" if step < self.steps // 2 else "late"
            progress.report(step + 1, self.steps, phase, *({"mean": float(image.mean())} for image in images))
            states = [generator.get_state() for generator in generators]
            progress.save({"images": list(images), "step": step + 1, "generators": states})
        return [
            Failure(f"label {self.failing_label}")
            if observation.labels is not None and self.failing_label in observation.labels.tolist()
            else Reconstruction(images=image, losses={"mean": float(image.mean())}, steps=self.steps)
            for image, observation in zip(images, observations, strict=True)
        ]


class Failing(Attack):
    """Fails in the way it is told to."""

    name: ClassVar[str] = "test-failing"

    how: Literal["runtime", "memory", "float", "pixels", "loss", "kill"] = "float"
    """What goes wrong."""

    def run(self, observation: Observation, *, generator: torch.Generator, progress: Progress) -> Reconstruction:
        """Reports once and fails."""
        progress.report(1, 2, "only", {"mean": 0.5})
        if self.how == "runtime":
            raise RuntimeError("shapes differ\nthe second line")
        if self.how == "memory":
            raise torch.OutOfMemoryError("out of memory, tried to allocate 2 GiB")
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "float":
            raise FloatingPointError("the first line\nthe second line")
        images = torch.full((observation.batch_size, *observation.image_shape), 0.5)
        if self.how == "pixels":
            return Reconstruction(images=images * float("nan"))
        return Reconstruction(images=images, losses={"mean": float("inf")})


def _vit(num_classes: int, image_size: int) -> nn.Module:
    network: Any = VisionTransformer(
        img_size=image_size, patch_size=4, embed_dim=32, depth=1, num_heads=1, num_classes=num_classes
    )
    # So large that it matters where a patch stands, as in a trained victim.
    for weight in (network.pos_embed, network.blocks[0].attn.qkv.weight):
        nn.init.normal_(weight, std=0.3)
    return network  # type: ignore[no-any-return]


vit = Architecture("test-vit", "a transformer whose pass costs next to nothing", image_size=32, num_classes=10, build=_vit)

ATTACKS: tuple[type[Attack], ...] = (Walk, GroupWalk, Failing)


@contextmanager
def registered() -> Iterator[None]:
    """Registers all of it in this process, as long as the outermost context lasts."""
    if vit.name in core.MODELS.names():
        yield
        return
    for attack in ATTACKS:
        core.ATTACKS.register(attack.name, attack)
    core.MODELS.register(vit.name, vit)
    yield
    for attack in ATTACKS:
        core.ATTACKS.unregister(attack.name)
    core.MODELS.unregister(vit.name)
