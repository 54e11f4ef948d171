"""GradViT (Hatamizadeh et al., CVPR 2022, arXiv 2203.11894) as a declaration over the engine.

    argmin_x  Γ(t) L_grad + Υ(t) R_image + α1 R_patch + α2 R_registration + α3 (TV + L2)

Υ is 0 in the first half and on in the second, where Γ is halved. The paper has no official code: coefficients, reductions and
the scale of pixels are those of the re-implementation by the authors of MJP. Attacks on single groups of parameters
(`layers=attention` and so on) make a map of what leaks where.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privbench.adversary import Clients, matching_group_size, mean_cross_entropy
from privbench.core import ComputeOptions, Failure, GroupAttack, Observation, Progress, Reconstruction
from privbench.inversion import (
    Adam,
    Alignment,
    BatchNormStatistics,
    Consensus,
    ConsensusNorm,
    Constant,
    Cosine,
    Inversion,
    MatchingTerm,
    MeanSquaredError,
    Normalised,
    ParametrisationName,
    PatchBorders,
    PixelNorm,
    PriorTerm,
    SquaredVariation,
    TwoPhase,
    Variable,
    aligned_consensus,
)
from privbench.label_recovery import LabelRule
from privbench.models import PRIOR_OFF, Victim, prior_for
from privbench.models.layer_groups import LayerGroup, is_in_group, require_group

__all__ = ["GradViT"]

Weight = Annotated[float, Field(ge=0)]

_CONSENSUS = "consensus"


class GradViT(GroupAttack):
    """Gradient matching with a CNN's batch-normalisation prior, patch, registration and variation priors, on a schedule."""

    name: ClassVar[str] = "gradvit"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {},
        "standard": {"steps": 4000, "trials": 3},
        "paper": {"steps": 120_000, "trials": 2},
        "priors-only": {"gradient": 0.0},
    }

    steps: Annotated[int, Field(gt=0)] = 1200
    """Optimisation steps of each trial."""
    trials: Annotated[int, Field(gt=0)] = 1
    """Independent trials, run side by side; the one with the smallest matching loss is returned."""
    layers: LayerGroup = "all"
    """Whose gradients are matched: `all` parameters (published), those up to the `first-block`, or the `embedding`'s alone. Or
    a single group, for a map of what leaks where: `position`, `patch-embedding`, `attention` or `mlp` of all blocks, `head`
    (the classifier), `block-0`, `block-1`, ... Label recovery always reads the classifier; `--labels known` keeps it out of
    the map."""
    gradient: Weight = 4e-3
    """Weight of the mean squared gradient difference, in the first half; half of it in the second."""
    bn_prior: Weight = 0.2
    """Weight of the CNN's batch-normalisation statistics, in the second half."""
    prior: str = "cnn_mini_32"
    """The CNN: `NAME`, `NAME:FILE`, or `NAME?argument=value&...:FILE` with arguments of timm's builder, and `mean`, `std` and
    `size` of its input. Left out (flag) where the images are larger than its input."""
    patch_prior: Weight = 1e-4
    """Weight of the differences across patch borders, in normalised pixels."""
    registration: Weight = 1e-2
    """Weight of the distance to the consensus of the trials, in normalised pixels."""
    alignment: Alignment = "shift"
    """How trials are registered before they are averaged: `shift` of whole images by phase correlation, `patches` by
    assignment, or `none`. The paper has RANSAC-flow."""
    extra: Weight = 1e-4
    """Weight of total variation and of the Euclidean norm, in normalised pixels."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    """Adam's learning rate at the start, in normalised pixels; it falls to 0 by a cosine."""
    parametrisation: ParametrisationName = "pixels"
    """What is optimised: every pixel, or the levels of an image pyramid in decorrelated colour (ours)."""
    label_recovery: LabelRule = "last-layer"
    """How unknown labels are recovered: `idlg` (one image), `last-layer` (no repeats), `bias-counts` (repeats)."""

    def require(self, observation: Observation) -> None:
        """Refuses models without the parameters that are to be matched."""
        require_group(self.layers, observation, self.name)

    def image_priors(self) -> tuple[str, ...]:
        """The CNN, where it has a weight."""
        return (self.prior,) if self.bn_prior else ()

    def group_size(self, observation: Observation) -> int:
        """As many as the engine attacks best in one step, by the size of this victim."""
        return matching_group_size(observation, self.trials, self._matched)

    def run_group(
        self,
        observations: Sequence[Observation],
        *,
        generators: Sequence[torch.Generator],
        progress: Progress,
        compute: ComputeOptions,
    ) -> list[Reconstruction | Failure]:
        """Recovers the labels where they are unknown, then inverts."""
        clients = Clients.of(observations, self.label_recovery)
        model, first = clients.simulation.model, observations[0]
        starts = [_uniform(model, self.trials, *pair) for pair in zip(observations, generators, strict=True)]
        priors = self._prior_terms(model, clients.device)
        has_prior = any(term.name == "bn" for term in priors)
        together = self.trials > 1 and self.registration > 0
        # Adam does not care for the scale of a gradient: in [0, 1] a step is shorter by the deviation of pixels.
        scales = first.normalisation.std if first.normalisation is not None else model.std.flatten().tolist()
        rate = self.learning_rate * fmean(scales)
        inversion = Inversion(
            simulate=mean_cross_entropy(clients.simulation),
            parameters={name: value for name, value in clients.parameters.items() if self._matched(name)},
            matching=[MatchingTerm("gradient", TwoPhase(self.gradient, self.gradient / 2), MeanSquaredError())],
            priors=priors,
            steps=self.steps,
            parametrisation=clients.variables(self.parametrisation, Adam(Cosine(rate))),
            free={_CONSENSUS: Variable(None)} if together else {},
            consensus=self._consensus(model) if together else None,
            phase=partial(self._phase, has_prior=has_prior),
        )
        return clients.invert(
            inversion,
            start=starts,
            trials=self.trials,
            generators=generators,
            progress=progress,
            compute=compute,
            free=[{_CONSENSUS: start} for start in starts] if together else None,
            flags=[PRIOR_OFF] if self.bn_prior and not has_prior else [],
        )

    def _matched(self, name: str) -> bool:
        return is_in_group(self.layers, name)

    def _prior_terms(self, model: Victim, device: torch.device) -> list[PriorTerm]:
        mean, std = model.mean.to(device), model.std.to(device)
        terms = [
            PriorTerm("variation", Constant(self.extra), Normalised(SquaredVariation(), mean, std)),
            PriorTerm("norm", Constant(self.extra), Normalised(PixelNorm(), mean, std)),
        ]
        if self.trials > 1:
            terms.append(PriorTerm("registration", Constant(self.registration), ConsensusNorm(_CONSENSUS, std)))
        if model.patch_size:
            borders = Normalised(PatchBorders(model.patch_size, "norm"), mean, std)
            terms.append(PriorTerm("patch", Constant(self.patch_prior), borders))
        prior = prior_for(self.prior, model.image_size) if self.bn_prior else None
        if prior is not None:
            statistics = BatchNormStatistics(prior.to(device), prior.image_size, "mean")
            terms.append(PriorTerm("bn", TwoPhase(0.0, self.bn_prior), statistics))
        return terms

    def _consensus(self, model: Victim) -> Consensus:
        every = max(1, self.steps // 50)
        size = model.patch_size
        return Consensus(
            _CONSENSUS, frozenset(range(0, self.steps, every)), lambda images: aligned_consensus(images, self.alignment, size)
        )

    def _phase(self, share: float, *, has_prior: bool) -> str:
        if self.gradient == 0:
            return "priors only"
        return "matching and prior" if share > 0.5 and has_prior else "matching"


def _uniform(model: Victim, trials: int, observation: Observation, generator: torch.Generator) -> Tensor:
    """Start images, uniform in [0, 1] in normalised pixels: `[trials, batch, 3, height, width]`."""
    drawn = torch.rand(trials, observation.batch_size, *observation.image_shape, generator=generator)
    return (model.mean + model.std * drawn.to(observation.device)).clamp(0, 1)
