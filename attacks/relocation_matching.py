"""Relocation matching: GradViT's schedule and priors with another distance, and patches moved to where they belong. Ours.

    argmin_x  Γ(t) L_grad + Υ(t) R_image + α1 R_patch + α2 R_registration + α3 (TV + L2)

L_grad is the mean cosine distance per parameter, up to the first block. Ours are also relocation (`relocation=off`), the
matching of position rows (`position_matching=0`, `position_error=0`) and the observed residual (`residual=simulated`). Attacks
on single groups of parameters (`layers=attention` and so on) make a map of what leaks where.
"""

from collections.abc import Container, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from privbench.adversary import (
    Clients,
    Simulation,
    Start,
    matching_group_size,
    mean_cross_entropy,
    observed_residual,
    residual_loss,
)
from privbench.core import ComputeOptions, Failure, GroupAttack, Observation, Progress, Reconstruction
from privbench.inversion import (
    Adam,
    BatchNormStatistics,
    Constant,
    Cosine,
    Decay,
    Inversion,
    LayerCosine,
    MatchingTerm,
    ParametrisationName,
    PatchBorders,
    PriorTerm,
    Registration,
    Relocation,
    RowCosine,
    RowError,
    Schedule,
    Simulator,
    SquaredError,
    SquaredNorm,
    TotalVariation,
    TwoPhase,
    position_relocation,
)
from privbench.models import PRIOR_OFF, prior_for
from privbench.models.layer_groups import LayerGroup, is_in_group, is_up_to_a_layer, require_group

__all__ = ["RelocationMatching"]

Weight = Annotated[float, Field(ge=0)]


class RelocationMatching(GroupAttack):
    """Layer-cosine matching on GradViT's schedule, patches relocated by their position gradients; ours, no paper's."""

    name: ClassVar[str] = "relocation-matching"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {},
        "standard": {"steps": 4000, "trials": 3},
        "priors-only": {"gradient": 0.0, "position_matching": 0.0, "position_error": 0.0, "relocation": False},
    }

    steps: Annotated[int, Field(gt=0)] = 1200
    """Optimisation steps of each trial."""
    trials: Annotated[int, Field(gt=0)] = 1
    """Independent trials, run side by side; the one with the smallest matching loss is returned."""
    schedule: Literal["gradvit", "constant"] = "gradvit"
    """`gradvit`: matching alone in the first half, halved and with the CNN prior in the second; `constant`: all throughout."""
    matching: Literal["squared-error", "layer-cosine"] = "layer-cosine"
    """Distance over all parameters: the published sum of squares, or the mean cosine distance per parameter."""
    residual: Literal["observed", "simulated"] = "observed"
    """Where the derivative of the loss by the logits comes from: the candidate's own softmax (published), or, for a batch of
    one and unless the adversary knows the gradient to be noisy, rounded or pruned, the observed gradient of the classifier's
    bias, which is exactly that derivative (probability minus one-hot). Of the single groups of `layers` only `head` has that
    bias; the others are always `simulated`."""
    layers: LayerGroup = "first-block"
    """Whose gradients are matched: `all` parameters (published), those up to the `first-block`, or the `embedding`'s alone;
    fewer parameters make a step cheaper, because their gradients need not be formed and differentiated again. Or a single
    group, for a map of what leaks where: `position`, `patch-embedding`, `attention` or `mlp` of all blocks, `head` (the
    classifier), `block-0`, `block-1`, ... What reads another group is off then: relocation and the position terms without
    `position`. Label recovery always reads the classifier; `--labels known` keeps it out of the map."""
    gradient: Weight = 1.0
    """Weight of the matching term in the first half."""
    position_matching: Weight = 0.3
    """Weight of the mean cosine distance of the position rows; follows the matching term's schedule."""
    position_error: Weight = 0.1
    """Weight, in the second half, of the relative squared error of the position rows."""
    bn_prior: Weight = 2e-5
    """Weight, in the second half, of the CNN's batch-normalisation statistics."""
    prior: str = "cnn_mini_32"
    """The CNN: `NAME`, `NAME:FILE`, or `NAME?argument=value&...:FILE` with arguments of timm's builder, and `mean`, `std` and
    `size` of its input. Left out (flag) where the images are larger than its input."""
    patch_prior: Weight = 1e-4
    """Weight of the squared differences across patch borders."""
    registration: Weight = 1e-2
    """Weight of the distance to the consensus of the trials."""
    total_variation: Weight = 0.8
    """Weight of total variation at the start."""
    total_variation_end: Weight = 0.06
    """Weight of total variation at the end; in between it changes in equal ratios."""
    squared_norm: Weight = 0.0
    """Weight of the squared distance from mid-grey."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.03
    """Adam's learning rate, pixels in [0, 1]."""
    second_moment: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Adam's second decay rate; below the usual 0.999 because the landscape changes with every relocation."""
    hold: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the steps at the full learning rate; then half a cosine to 0."""
    parametrisation: ParametrisationName = "pixels"
    """What is optimised: every pixel, or the levels of an image pyramid in decorrelated colour (ours)."""
    start: Start = "grey"
    """Start images: uniform in [0, 1], normal around mid-grey (deviation 0.25), or mid-grey with a little noise (0.05)."""
    relocation: bool = True
    """Whether patches are moved to where the position gradient puts them (batch of one, learned position embedding)."""
    relocation_every: Annotated[int, Field(gt=0)] = 40
    """Steps between relocations."""
    relocation_until: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of the steps after which nothing is relocated any more."""

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
        clients = Clients.of(observations)
        first = clients.simulation
        relocation = self._relocation(first, observations[0])
        priors = self._prior_terms(first, clients.device)
        flags = ["relocation-does-not-apply"] if self.relocation and relocation is None else []
        has_prior = any(term.name == "bn" for term in priors)
        if self.bn_prior and not has_prior:
            flags.append(PRIOR_OFF)
        inversion = Inversion(
            simulate=self._simulator(first, observations[0]),
            parameters={name: value for name, value in clients.parameters.items() if self._matched(name)},
            matching=self._matching_terms(first, observations[0].update),
            priors=priors,
            steps=self.steps,
            parametrisation=clients.variables(
                self.parametrisation, Adam(Cosine(self.learning_rate, self.hold), second_moment=self.second_moment)
            ),
            relocation=relocation,
            phase=partial(self._phase, has_prior=has_prior),
        )
        return clients.invert(
            inversion,
            start=self.start,
            trials=self.trials,
            generators=generators,
            progress=progress,
            compute=compute,
            contexts=[self._residual(first, *pair) for pair in zip(observations, clients.labels, strict=True)],
            flags=flags,
        )

    def _observed_residual(self, simulation: Simulation, observation: Observation) -> Tensor | None:
        # Whoever matches a single group has not read the classifier's bias.
        read = is_up_to_a_layer(self.layers) or self._matched(simulation.model.classifier_names()[1])
        return observed_residual(simulation, observation) if self.residual == "observed" and read else None

    def _residual(self, simulation: Simulation, observation: Observation, labels: Tensor) -> dict[str, Tensor]:
        residual = self._observed_residual(simulation, observation)
        return {"labels": labels} if residual is None else {"residual": residual}

    def _simulator(self, simulation: Simulation, observation: Observation) -> Simulator:
        known = self._observed_residual(simulation, observation) is not None
        return residual_loss(simulation) if known else mean_cross_entropy(simulation)

    def _matched(self, name: str) -> bool:
        return is_in_group(self.layers, name)

    def _matching_terms(self, simulation: Simulation, sent: Container[str]) -> list[MatchingTerm]:
        distance = SquaredError() if self.matching == "squared-error" else LayerCosine()
        terms = [MatchingTerm("gradient", self._matching_weight(self.gradient), distance)]
        parts = simulation.model.parts() if simulation.model.patch_size else None
        if parts is not None and parts.position is not None and parts.position in sent and self._matched(parts.position):
            rows = parts.prefix_tokens + simulation.model.patch_count
            direction = self._matching_weight(self.position_matching)
            late = TwoPhase(0.0, self.position_error) if self.schedule == "gradvit" else Constant(self.position_error)
            terms.append(MatchingTerm("position", direction, RowCosine(parts.position, rows)))
            terms.append(MatchingTerm("position-error", late, RowError(parts.position, rows)))
        return terms

    def _matching_weight(self, value: float) -> Schedule:
        return TwoPhase(value, value / 2) if self.schedule == "gradvit" else Constant(value)

    def _prior_terms(self, simulation: Simulation, device: torch.device) -> list[PriorTerm]:
        terms = [
            PriorTerm("variation", Decay(self.total_variation, self.total_variation_end), TotalVariation()),
            PriorTerm("norm", Constant(self.squared_norm), SquaredNorm()),
        ]
        if self.trials > 1:
            terms.append(PriorTerm("registration", Constant(self.registration), Registration()))
        if simulation.model.patch_size:
            terms.append(PriorTerm("patch", Constant(self.patch_prior), PatchBorders(simulation.model.patch_size)))
        prior = prior_for(self.prior, simulation.model.image_size) if self.bn_prior else None
        if prior is not None:
            weight = TwoPhase(0.0, self.bn_prior) if self.schedule == "gradvit" else Constant(self.bn_prior)
            terms.append(PriorTerm("bn", weight, BatchNormStatistics(prior.to(device), prior.image_size)))
        return terms

    def _relocation(self, simulation: Simulation, observation: Observation) -> Relocation | None:
        """None where it is off or does not apply: no position gradient is matched, or it is a sum over a batch's images."""
        if not self.relocation or simulation.model.patch_size is None or observation.batch_size > 1:
            return None
        position = simulation.model.parts().position
        if position is None or position not in observation.update or not self._matched(position):
            return None
        last = int(self.steps * self.relocation_until)
        return position_relocation(simulation.model, every=self.relocation_every, until=last)

    def _phase(self, share: float, *, has_prior: bool) -> str:
        if self.gradient == self.position_matching == self.position_error == 0:
            return "priors only"
        begun = self.schedule == "constant" or share > 0.5
        return "matching and prior" if has_prior and begun else "matching"
