"""Attacks for tests, registered through entry points as a third party's would be; no gradient is matched, nothing is learnt."""

import time
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field

from privbench.core import Attack, Observation, Progress, Reconstruction, UserError


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
        if (state := progress.restore()) is not None:
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


class Failing(Attack):
    """Fails in the way it is told to."""

    name: ClassVar[str] = "test-failing"

    how: Literal["runtime", "memory", "float", "pixels", "loss"] = "runtime"
    """What goes wrong."""

    def run(self, observation: Observation, *, generator: torch.Generator, progress: Progress) -> Reconstruction:
        """Reports once and fails."""
        progress.report(1, 2, "only", {"mean": 0.5})
        if self.how == "runtime":
            raise RuntimeError("the first line\nthe second line")
        if self.how == "memory":
            raise torch.OutOfMemoryError("out of memory, tried to allocate 2 GiB")
        if self.how == "float":
            raise FloatingPointError("underflow")
        images = torch.full((observation.batch_size, *observation.image_shape), 0.5)
        if self.how == "pixels":
            return Reconstruction(images=images * float("nan"))
        return Reconstruction(images=images, losses={"mean": float("inf")})
