"""Inverting Gradients (Geiping et al., NeurIPS 2020, arXiv 2003.14053): direction instead of size.

    argmin_x  1 - <g(x), g> / (|g(x)| |g|) + α TV(x)

One cosine over all parameters, total variation, Adam on the sign of each pixel's gradient, a learning rate that falls to a
tenth after 3/8, 5/8 and 7/8 of the steps. A CNN's batch-normalisation statistics, the victim's own or another's, can be added.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from privbench.adversary import Clients, Start, matching_group_size, mean_cross_entropy
from privbench.core import ComputeOptions, Failure, GroupAttack, Observation, Progress, Reconstruction
from privbench.inversion import (
    Adam,
    BatchNormStatistics,
    Constant,
    Inversion,
    MatchingTerm,
    Milestones,
    ParametrisationName,
    PriorTerm,
    TotalVariation,
    WholeCosine,
)
from privbench.label_recovery import LabelRule
from privbench.models import PRIOR_OFF, prior_for

__all__ = ["InvertingGradients"]


class InvertingGradients(GroupAttack):
    """Cosine distance of the whole gradient with total variation, by Adam on signed gradients."""

    name: ClassVar[str] = "inverting-gradients"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {},
        # In normalised pixels, whose deviation is about 0.25 here: learning rate 0.1, total variation 0.2.
        "paper": {"steps": 24_000, "total_variation": 0.8, "learning_rate": 0.025, "start": "normal"},
    }

    steps: Annotated[int, Field(gt=0)] = 1000
    """Optimisation steps of each trial."""
    trials: Annotated[int, Field(gt=0)] = 1
    """Independent trials, run side by side; the one with the smallest cosine distance is returned."""
    total_variation: Annotated[float, Field(ge=0)] = 0.8
    """Weight of total variation in [0, 1]: 0.2 in normalised pixels of deviation 0.25."""
    bn_prior: Annotated[float, Field(ge=0)] = 0.0
    """Weight of a CNN's batch-normalisation statistics (ours); 0: not used."""
    prior: str = "cnn_mini_32"
    """The CNN: `NAME` or `NAME:FILE`, such as that of a convolutional victim and its weights, which the server knows."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.03
    """Adam's learning rate at the start, pixels in [0, 1]."""
    signed: bool = True
    """Whether Adam is given the sign of each pixel's gradient alone."""
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
        """Matches the direction of the gradient."""
        clients = Clients.of(observations, self.label_recovery)
        priors = [PriorTerm("variation", Constant(self.total_variation), TotalVariation())]
        network = prior_for(self.prior, clients.simulation.model.image_size) if self.bn_prior else None
        if network is not None:
            statistics = BatchNormStatistics(network.to(clients.device), network.image_size)
            priors.append(PriorTerm("bn", Constant(self.bn_prior), statistics))
        inversion = Inversion(
            simulate=mean_cross_entropy(clients.simulation),
            parameters=clients.parameters,
            matching=[MatchingTerm("gradient", Constant(1.0), WholeCosine())],
            priors=priors,
            steps=self.steps,
            parametrisation=clients.variables(self.parametrisation, Adam(Milestones(self.learning_rate), signed=self.signed)),
        )
        return clients.invert(
            inversion,
            start=self.start,
            trials=self.trials,
            generators=generators,
            progress=progress,
            compute=compute,
            flags=[PRIOR_OFF] if self.bn_prior and network is None else [],
        )
