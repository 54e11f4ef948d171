"""What a client does that trains before it sends: `LocalTraining`."""

from collections.abc import Mapping
from math import fsum
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from privbench.core.stored import StrictPart

if TYPE_CHECKING:
    import torch

__all__ = ["LocalTraining", "UpdateDtype"]

UpdateDtype = Literal["float32", "float16", "bfloat16"]
"""In which the numbers of an update are sent."""


class LocalTraining(StrictPart):
    """Several optimiser steps on the client's own images, whose weight delta is sent.

    The images of a client are cut into `batches` mini-batches, in a new random order at every pass; each of the `steps` takes
    the next of them. One batch and five steps are five steps on the same images.
    """

    optimiser: Literal["sgd", "momentum", "adamw"] = "sgd"
    """As torch has them; `momentum` is SGD with momentum, all state starts at zero."""
    learning_rate: Annotated[float, Field(gt=0, le=1e3)] = 0.01
    """Of every step."""
    steps: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Optimiser steps, all epochs together."""
    batches: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Mini-batches into which the client's images are cut."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of `momentum` alone."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Added to the gradient (SGD), or decoupled (AdamW)."""
    dtype: UpdateDtype = "float32"
    """In which the update is sent; training is in float32."""

    @model_validator(mode="before")
    @classmethod
    def _from_epochs(cls, given: Any) -> Any:
        """`epochs` stands for `steps`: passes over all mini-batches; `lr` is the short name of the learning rate."""
        if not isinstance(given, Mapping):
            return given
        given = dict(given)
        if "lr" in given:
            if "learning_rate" in given:
                raise ValueError("lr and learning_rate are the same; give one")
            given["learning_rate"] = given.pop("lr")
        if "epochs" in given:
            if "steps" in given:
                raise ValueError("steps and epochs say the same; give one")
            given["steps"] = int(given.pop("epochs")) * int(given.get("batches", 1))
        return given

    @property
    def epochs(self) -> int:
        """Passes over the images, the last one counted where it is begun."""
        return -(-self.steps // self.batches)

    @property
    def torch_dtype(self) -> "torch.dtype":
        """That of the update."""
        import torch  # reading a record needs none

        found: torch.dtype = getattr(torch, self.dtype)
        return found

    @property
    def is_linear(self) -> bool:
        """Whether the delta is a weighted sum of the gradients."""
        return self.optimiser != "adamw"

    @property
    def gradient_weight(self) -> float:
        """The sum of the weights with which the gradients of the steps enter `-delta / learning_rate`."""
        if self.optimiser != "momentum":
            return float(self.steps)
        # A gradient counts once at its own step and, decayed, at all later ones.
        decay = self.momentum
        return fsum((1 - decay ** (self.steps - step)) / (1 - decay) for step in range(self.steps))

    def __str__(self) -> str:
        parts = [self.optimiser, f"lr {self.learning_rate:g}", f"{self.steps} step{'s' if self.steps > 1 else ''}"]
        if self.batches > 1:
            parts.append(f"{self.batches} mini-batches")
        if self.weight_decay:
            parts.append(f"weight decay {self.weight_decay:g}")
        if self.dtype != "float32":
            parts.append(self.dtype)
        return ", ".join(parts)
