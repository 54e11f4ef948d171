"""Differentially private SGD (Abadi et al., CCS 2016, arXiv 1607.00133), with Opacus' optimizer and accountant.

The gradient of every sample is clipped to `max_grad_norm`; Gaussian noise of deviation `noise_multiplier * max_grad_norm` is
added to their sum, and the result is divided by the batch size. Words and conventions are those of Opacus (arXiv 2109.12298).
"""

import importlib
import math
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from privbench.core import AttackerView, Defense, Effect, Observation, UserError
from privbench.defenses.clipping import SMALLEST_NORM, clipped_as, whole_norm
from privbench.defenses.gradient_noise import gaussian

__all__ = ["DPSGD"]

_LEAST_NOISE, _MOST_NOISE = 1e-6, 1e6
"""Between them the accountant keeps its digits. With less noise an update has an epsilon beyond 1e11, with more none below what
the largest of Opacus' orders gives (0.1 at delta 1e-5)."""


class DPSGD(Defense):
    """Clips every sample's gradient and adds Gaussian noise, with an accountant."""

    name: ClassVar[str] = "dpsgd"
    not_after: ClassVar[Mapping[Effect, str]] = MappingProxyType(
        {
            "batch-gradient": "it clips the gradient of each sample, and after that defense there is only the batch's",
            "mixed-samples": "one image would act through several samples, and clipping each would not bound what it does",
        }
    )

    noise_multiplier: Annotated[float, Field(ge=0, le=_MOST_NOISE)] = 1.0
    """Deviation of the noise on the sum of the clipped gradients, in units of `max_grad_norm`: 0, or from 1e-6 to 1e6."""
    max_grad_norm: Annotated[float, Field(ge=SMALLEST_NORM, le=1e6)] = 1.0
    """Largest L2 norm of one sample's gradient, all parameters together, from 1e-6 to 1e6."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """Accounting: the delta at which epsilon is stated."""
    sample_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Accounting: probability with which an image takes part in an update (Poisson sampling); 1 where the attacker knows
    that it did. `privbench train` counts its own."""
    steps: Annotated[int, Field(gt=0, le=10**9)] = 1
    """Accounting: number of updates that the client sends; the attack sees one of them. `privbench train` counts its own."""

    @field_validator("noise_multiplier")
    @classmethod
    def _no_noise_or_enough(cls, value: float) -> float:
        if 0 < value < _LEAST_NOISE:
            raise ValueError(
                f"so little noise has no epsilon worth a name; accepted: 0, or from {_LEAST_NOISE:g} to {_MOST_NOISE:g}"
            )
        return value

    def protect_samples(
        self, samples: dict[str, Tensor], generator: torch.Generator, expected: int | None = None
    ) -> dict[str, Tensor]:
        """One step of Opacus' optimizer, which clips and sums where the samples lie.

        The noise is drawn on the CPU, where it is the same for every device.

        Raises:
            UserError: Opacus is not installed.
        """
        optimizer_of = _opacus("optimizers").DPOptimizer
        parameters = {name: nn.Parameter(values.new_zeros(values.shape[1:])) for name, values in samples.items()}
        for name, parameter in parameters.items():
            parameter.grad_sample = samples[name]  # type: ignore[attr-defined]
        on_cpu = all(not values.is_cuda for values in samples.values())
        count = expected or len(next(iter(samples.values())))
        optimizer = optimizer_of(
            torch.optim.SGD(parameters.values(), lr=1.0),
            noise_multiplier=self.noise_multiplier if on_cpu else 0.0,
            max_grad_norm=self.max_grad_norm,
            expected_batch_size=count,
            generator=generator,
        )
        optimizer.pre_step()
        update = {name: cast(Tensor, parameter.grad) for name, parameter in parameters.items()}
        if on_cpu:
            return update
        std = self.noise_multiplier * self.max_grad_norm / count
        return {name: value + gaussian(value, std, generator) for name, value in update.items()}

    def accounted(self, *, steps: int, sample_rate: float) -> "DPSGD":
        """With the number of updates and the sampling rate of a run in place of the parameters."""
        return self.model_copy(update={"steps": steps, "sample_rate": sample_rate})

    def epsilon(self) -> float:
        """Epsilon at `delta` after `steps` updates by Opacus' Renyi accountant, an upper bound; infinite without noise.

        At a large delta the conversion from Renyi's divergence falls below 0. What holds there holds for 0 too, which says
        that delta alone bounds what an attacker can tell.

        Raises:
            UserError: Opacus is not installed.
        """
        accountant = _opacus("accountants").RDPAccountant()
        if self.noise_multiplier == 0:
            return math.inf
        accountant.history = [(self.noise_multiplier, self.sample_rate, self.steps)]
        with warnings.catch_warnings():
            # At the ends of its range of orders the bound is looser and still a bound.
            warnings.filterwarnings("ignore", message="Optimal order is the")
            return max(0.0, float(accountant.get_epsilon(delta=self.delta)))

    def aware(self, model: nn.Module, observation: Observation) -> AttackerView:
        """The expected update: clipped, without noise.

        The simulated batch gradient is clipped to the bound, which for one image is the expected update; for a batch the
        clipping of each sample is not simulated (remark). The oracle is not told the noise: it would subtract it, and nothing
        would be left to measure.
        """
        name = "dpsgd.observed-norm"
        return AttackerView(
            known={name: whole_norm(observation.gradients)},
            remarks=("per-sample-clipping-not-simulated",) if observation.batch_size > 1 else (),
            transform_gradient=clipped_as(self.max_grad_norm, name),
            entries_are_exact=self.noise_multiplier == 0,
        )

    def guarantee(self) -> str:
        """Epsilon, delta and what they hold for.

        Raises:
            UserError: Opacus is not installed.
        """
        epsilon = self.epsilon()
        if math.isinf(epsilon):
            return "Bounds what one image adds to the update; epsilon is infinite: without noise nothing is private."
        return (
            f"Differentially private: epsilon {epsilon:.4g} at delta {self.delta:g} (Opacus, Renyi accountant) for one image "
            f"added or removed, {self.steps} update{'s' if self.steps > 1 else ''} sent, sampling rate {self.sample_rate:g}, "
            "if images are drawn independently at that rate and the noise stays secret."
        )


def _opacus(module: str) -> Any:
    """A module of Opacus, imported where it is needed: nothing else asks for the package.

    Raises:
        UserError: It is not installed.
    """
    try:
        return importlib.import_module(f"opacus.{module}")
    except ImportError:
        raise UserError(
            "defense dpsgd needs the package opacus, which is not installed; install the extra privbench[dp], or opacus itself"
        ) from None
