"""The contract of an attack: an `Observation` in, a `Reconstruction` out, and nothing of the truth in between."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch

from privbench.core.component import Component
from privbench.core.errors import UserError
from privbench.core.observation import Observation
from privbench.core.reconstruction import Progress, Reconstruction

__all__ = ["Attack"]


class Attack(Component, ABC):
    """Base class of attacks; an author declares hyper-parameters as fields and writes `run`.

    An instance is stateless and frozen: everything random comes from the generator that `__call__` receives.
    """

    kind: ClassVar[str] = "attack"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named parameter sets; the first one is the default of the command line."""

    @final
    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: Progress | None = None
    ) -> Reconstruction:
        """Checks that the attack applies, runs it, and checks what it returns.

        Args:
            observation: What the attacker sees.
            generator: Source of all randomness, on the CPU; the same state gives the same result.
            progress: Where to report to.

        Raises:
            UserError: The attack does not apply to this observation.
            RuntimeError: The attack broke its contract (shape, range, non-finite pixels).
        """
        self.require(observation)
        reconstruction = self.run(observation, generator=generator, progress=progress or Progress())
        images = reconstruction.images
        expected = (observation.batch_size, *observation.image_shape)
        if tuple(images.shape) != expected:
            raise RuntimeError(f"attack {self.name} returned images {tuple(images.shape)}, expected {expected}")
        if not torch.isfinite(images).all():
            raise RuntimeError(f"attack {self.name} returned non-finite pixels")
        if images.min() < 0 or images.max() > 1:
            raise RuntimeError(f"attack {self.name} returned pixels outside [0, 1]")
        return reconstruction

    def require(self, observation: Observation) -> None:
        """Raises `UserError` where the attack cannot apply (batch size, architecture); called before anything runs."""

    @abstractmethod
    def run(self, observation: Observation, *, generator: torch.Generator, progress: Progress) -> Reconstruction:
        """The attack itself."""

    @classmethod
    def from_preset(cls, preset: str | None, parameters: Mapping[str, Any]) -> "Attack":
        """Builds the attack from a preset (None: the first) with parameters on top.

        Raises:
            UserError: The preset or a parameter is unknown, or a value is not accepted.
        """
        if preset is None:
            preset = next(iter(cls.presets), None)
        elif preset not in cls.presets:
            accepted = ", ".join(cls.presets) or "none, this attack has no presets"
            raise UserError(f"unknown preset '{preset}' of attack {cls.name}; accepted: {accepted}")
        return cls.configured({**(cls.presets[preset] if preset else {}), **parameters})
