"""The contract of an attack: an `Observation` in, a `Reconstruction` out, and nothing of the truth in between."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch

from privbench.core.component import Component
from privbench.core.compute import ComputeOptions
from privbench.core.errors import UserError
from privbench.core.observation import Observation
from privbench.core.reconstruction import Failure, Progress, Reconstruction

__all__ = ["EFFORTS", "Attack", "GroupAttack"]

EFFORTS = ("default", "quick", "standard")
"""Names of presets that every attack accepts; they say how much is computed."""


class Attack(Component, ABC):
    """Base class of attacks; an author declares hyper-parameters as fields and writes `run`.

    An instance is stateless and frozen: everything random comes from the generator that `__call__` receives.
    """

    kind: ClassVar[str] = "attack"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named parameter sets; the first one is the default of the command line."""

    @final
    def __call__(
        self,
        observation: Observation,
        *,
        generator: torch.Generator,
        progress: Progress | None = None,
        compute: ComputeOptions | None = None,
    ) -> Reconstruction:
        """Checks that the attack applies, runs it, and checks what it returns.

        Args:
            observation: What the attacker sees.
            generator: Source of all randomness, on the CPU; the same state gives the same result.
            progress: Where to report to.
            compute: How to compute.

        Raises:
            UserError: The attack does not apply to this observation.
            RuntimeError: The attack broke its contract (shape, range).
            ArithmeticError: The attack failed on this observation, or returned non-finite pixels.
        """
        (result,) = self.together([observation], generators=[generator], progress=progress, compute=compute)
        if isinstance(result, Failure):
            raise ArithmeticError(result.reason)
        return result

    @final
    def together(
        self,
        observations: Sequence[Observation],
        *,
        generators: Sequence[torch.Generator],
        progress: Progress | None = None,
        compute: ComputeOptions | None = None,
    ) -> Sequence[Reconstruction | Failure]:
        """Attacks several independent observations of one model in one go; what comes back does not depend on the company.

        Args:
            observations: At least one, no more than `group_size`, with the same model, weights and batch size.
            generators: One for each observation.
            progress: Where to report to.
            compute: How to compute.

        Returns:
            One result for each observation, in order; a failure also where non-finite pixels came back.

        Raises:
            UserError: The attack does not apply to one of them.
            RuntimeError: The attack broke its contract (shape, range).
        """
        for observation in observations:
            self.require(observation)
        results = self._run_together(observations, generators, progress or Progress(), compute or ComputeOptions())
        return [self._checked(*pair) for pair in zip(observations, results, strict=True)]

    def _checked(self, observation: Observation, result: Reconstruction | Failure) -> Reconstruction | Failure:
        if isinstance(result, Failure):
            return result
        images = result.images
        expected = (observation.batch_size, *observation.image_shape)
        if tuple(images.shape) != expected:
            raise RuntimeError(f"attack {self.name} returned images {tuple(images.shape)}, expected {expected}")
        if not torch.isfinite(images).all():
            return Failure(f"attack {self.name} returned non-finite pixels")
        if images.min() < 0 or images.max() > 1:
            raise RuntimeError(f"attack {self.name} returned pixels outside [0, 1]")
        return result

    def require(self, observation: Observation) -> None:
        """Raises `UserError` where the attack cannot apply (batch size, architecture); called before anything runs."""

    def group_size(self, observation: Observation) -> int:
        """How many observations like this one are best attacked together on its device; 1 where that brings nothing."""
        return 1

    def image_priors(self) -> tuple[str, ...]:
        """The networks whose statistics it uses, as `privbench.models.load_prior` takes them; a case holds their hash."""
        return ()

    @abstractmethod
    def run(self, observation: Observation, *, generator: torch.Generator, progress: Progress) -> Reconstruction:
        """The attack itself."""

    def _run_together(
        self,
        observations: Sequence[Observation],
        generators: Sequence[torch.Generator],
        progress: Progress,
        compute: ComputeOptions,
    ) -> Sequence[Reconstruction | Failure]:
        if len(observations) != 1:
            raise ValueError(f"attack {self.name} takes one observation at a time, given {len(observations)}")
        return [self.run(observations[0], generator=generators[0], progress=progress)]

    @classmethod
    def from_preset(cls, preset: str | None, parameters: Mapping[str, Any]) -> "Attack":
        """Builds the attack from a preset with parameters on top.

        Every attack knows the names in `EFFORTS`, so that a loop over all attacks needs no table: where it has no preset of
        that name, its first one is meant, and without presets its parameters as they are. All other names (`paper`) say what
        an attack is, and are accepted by the attacks alone that have them.

        Args:
            preset: Its name; None: `default`.
            parameters: By name; they go before those of the preset.

        Raises:
            UserError: The preset or a parameter is unknown, or a value is not accepted.
        """
        names = dict.fromkeys((*cls.presets, *EFFORTS))
        if preset is not None and preset not in names:
            raise UserError(f"unknown preset '{preset[:60]}' of attack {cls.name}; accepted: {', '.join(names)}")
        first = next(iter(cls.presets.values()), {})
        return cls.configured({**cls.presets.get(preset or "default", first), **parameters})


class GroupAttack(Attack):
    """An attack that gains by taking several observations at once: the author writes `run_group` and `group_size`."""

    @abstractmethod
    def run_group(
        self,
        observations: Sequence[Observation],
        *,
        generators: Sequence[torch.Generator],
        progress: Progress,
        compute: ComputeOptions,
    ) -> Sequence[Reconstruction | Failure]:
        """The attack itself; a failure of one observation is returned in its place and must not touch the others."""

    @final
    def run(self, observation: Observation, *, generator: torch.Generator, progress: Progress) -> Reconstruction:
        """A group of one."""
        return self(observation, generator=generator, progress=progress)

    @final
    def _run_together(
        self,
        observations: Sequence[Observation],
        generators: Sequence[torch.Generator],
        progress: Progress,
        compute: ComputeOptions,
    ) -> Sequence[Reconstruction | Failure]:
        return self.run_group(observations, generators=generators, progress=progress, compute=compute)
