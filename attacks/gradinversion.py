"""GradInversion (Yin et al., CVPR 2021, arXiv 2104.07586): squared error with a CNN's statistics and a group of trials.

    argmin_x  α |g(x) - g|² + α_tv TV(x) + α_l2 |x|² + α_bn R_bn(x) + α_group |x - mean of the trials|²

Adam with a learning rate that warms up and falls by half a cosine. `gradvit` adds a schedule and patch priors.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from privbench.adversary import Clients, Simulation, Start, matching_group_size, mean_cross_entropy
from privbench.core import ComputeOptions, Failure, GroupAttack, Observation, Progress, Reconstruction
from privbench.inversion import (
    Adam,
    BatchNormStatistics,
    Constant,
    Cosine,
    Inversion,
    MatchingTerm,
    ParametrisationName,
    PriorTerm,
    Registration,
    SquaredError,
    SquaredNorm,
    TotalVariation,
    Warmup,
)
from privbench.label_recovery import LabelRule
from privbench.models import PRIOR_OFF, prior_for

__all__ = ["GradInversion"]

Weight = Annotated[float, Field(ge=0)]


class GradInversion(GroupAttack):
    """Squared-error matching with total variation, L2, batch-normalisation statistics and group registration."""

    name: ClassVar[str] = "gradinversion"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {},
        "paper": {
            "steps": 20_000,
            "trials": 2,
            "gradient": 1e-4,
            "total_variation": 1e-4,
            "squared_norm": 1e-6,
            "bn_prior": 0.1,
            "registration": 0.01,
            "learning_rate": 0.1,
            "warmup": 50,
            "start": "normal",
        },
    }

    steps: Annotated[int, Field(gt=0)] = 600
    """Optimisation steps of each trial."""
    trials: Annotated[int, Field(gt=0)] = 2
    """Trials, run side by side and pulled towards their mean; the one with the smallest matching loss is returned."""
    gradient: Weight = 1e-3
    """Weight of the squared error over all parameters."""
    total_variation: Weight = 1e-2
    """Weight of total variation."""
    squared_norm: Weight = 1e-6
    """Weight of the squared distance from mid-grey."""
    bn_prior: Weight = 1e-5
    """Weight of the CNN's batch-normalisation statistics."""
    prior: str = "cnn_mini_32"
    """The CNN: `NAME`, `NAME:FILE`, or `NAME?argument=value&...:FILE` with arguments of timm's builder, and `mean`, `std` and
    `size` of its input. Left out (flag) where the images are larger than its input."""
    registration: Weight = 1e-2
    """Weight of the distance to the consensus of the trials."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.03
    """Adam's learning rate at its peak, pixels in [0, 1]."""
    warmup: Annotated[int, Field(ge=0)] = 50
    """Steps over which the learning rate rises, no more than half of them; it falls to 0 by a cosine over all steps."""
    parametrisation: ParametrisationName = "pixels"
    """What is optimised: every pixel, or the levels of an image pyramid in decorrelated colour (ours)."""
    start: Start = "grey"
    """Start images: uniform in [0, 1], normal around mid-grey (deviation 0.25), or mid-grey with a little noise (0.05)."""
    label_recovery: LabelRule = "last-layer"
    """How unknown labels are recovered: `idlg` (one image), `last-layer` (no repeats), `bias-counts` (repeats)."""

    def image_priors(self) -> tuple[str, ...]:
        """The CNN, where it has a weight."""
        return (self.prior,) if self.bn_prior else ()

    def group_size(self, observation: Observation) -> int:
        """As many as the engine attacks best in one step."""
        return matching_group_size(observation, self.trials)

    def run_group(
        self,
        observations: Sequence[Observation],
        *,
        generators: Sequence[torch.Generator],
        progress: Progress,
        compute: ComputeOptions,
    ) -> list[Reconstruction | Failure]:
        """Matches with all priors from the first step on."""
        clients = Clients.of(observations, self.label_recovery)
        priors = self._priors(clients.simulation, clients.device)
        inversion = Inversion(
            simulate=mean_cross_entropy(clients.simulation),
            parameters=clients.parameters,
            matching=[MatchingTerm("gradient", Constant(self.gradient), SquaredError())],
            priors=priors,
            steps=self.steps,
            parametrisation=clients.variables(
                self.parametrisation, Adam(Warmup(Cosine(self.learning_rate), min(self.warmup / self.steps, 0.5)))
            ),
        )
        return clients.invert(
            inversion,
            start=self.start,
            trials=self.trials,
            generators=generators,
            progress=progress,
            compute=compute,
            flags=[PRIOR_OFF] if self.bn_prior and all(term.name != "bn" for term in priors) else [],
        )

    def _priors(self, simulation: Simulation, device: torch.device) -> list[PriorTerm]:
        terms = [
            PriorTerm("variation", Constant(self.total_variation), TotalVariation()),
            PriorTerm("norm", Constant(self.squared_norm), SquaredNorm()),
        ]
        if self.trials > 1:
            terms.append(PriorTerm("registration", Constant(self.registration), Registration()))
        prior = prior_for(self.prior, simulation.model.image_size) if self.bn_prior else None
        if prior is not None:
            terms.append(PriorTerm("bn", Constant(self.bn_prior), BatchNormStatistics(prior.to(device), prior.image_size)))
        return terms
