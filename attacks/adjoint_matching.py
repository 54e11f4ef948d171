"""Adjoint matching: the first block's gradients are matched, and what the rest of the network sends back to it is a variable.

    argmin_{x, D}  Σ_l cos-distance(∂<z(x), D>/∂W_l, ΔW_l) + position terms + priors(x)

z is the first block's output for the image x, an image pyramid, and D the derivative of the loss by it (`privbench.adjoint`).
This attack is ours and no paper's; it is what `privbench run` uses by default. Of several images each has its own
adjoint, and patches are exchanged between them; where none can be started (no position table), or several images are small, the
whole network is simulated and the gradients up to its first block are matched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from privbench.adjoint import (
    ADJOINT,
    EQUATION_WEIGHTS,
    FreeAdjoint,
    equation_weights,
    first_block_simulator,
    free_adjoint,
    has_free_adjoint,
    hidden_patches,
    patch_equations,
    variation_weights,
)
from privbench.adversary import (
    Clients,
    Simulation,
    Start,
    believed_gradients,
    matching_group_size,
    mean_cross_entropy,
    observed_residual,
    residual_loss,
)
from privbench.attacks.adjoint_settings import TUNED, VARIATION, AdjointSettings, settings_for
from privbench.attacks.closed_form import closed_form_start
from privbench.core import ComputeOptions, Failure, GroupAttack, Observation, Progress, Reconstruction, UserError
from privbench.inversion import (
    Adam,
    Constant,
    Cosine,
    Exchange,
    From,
    Inversion,
    LayerCosine,
    MatchingTerm,
    Parametrisation,
    ParametrisationName,
    Pixels,
    PriorTerm,
    Pyramid,
    Registration,
    Relocation,
    RowCosine,
    RowError,
    Simulator,
    Variable,
    position_relocation,
    pyramid_sizes,
)
from privbench.label_recovery import LabelRule
from privbench.models import Victim
from privbench.models.layer_groups import is_in_group
from privbench.refinement.update import are_fed_as_they_are
from privbench.sample_features import FeatureError, SampleFeatures, features_of_clients

__all__ = ["AdjointMatching"]

Weight = Annotated[float, Field(ge=0)]
_EXCHANGE_EVERY = 50
"""Steps between exchanges of patches in a batch."""
_EXCHANGE_UNTIL = 0.7
"""Share of the steps after which none are exchanged any more."""


class AdjointMatching(GroupAttack):
    """Matches the first block's gradients over an image pyramid and a free adjoint; ours, no paper's."""

    name: ClassVar[str] = "adjoint-matching"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {},
        "standard": {"steps": 2000, "trials": 3},
        "priors-only": {
            "gradient": 0.0,
            "position_matching": 0.0,
            "position_error": 0.0,
            "equations": 0.0,
            "features": 0.0,
            "start": "grey",
        },
    }

    steps: Annotated[int, Field(gt=0)] | None = None
    """Optimisation steps of each trial; None: 1200 (several images 2000), up to 64 pixels 1250, and 700 where the adjoint
    is not free."""
    trials: Annotated[int, Field(gt=0)] = 1
    """Independent trials, run side by side; the one with the smallest matching loss is returned."""
    adjoint: Literal["free", "network"] = "free"
    """Where the derivative of the loss by the first block's output comes from: a variable, or the rest of the network, with the
    observed gradient of the classifier's bias as derivative by the logits where that is known, else with the labels."""
    parametrisation: ParametrisationName = "pyramid"
    """What is optimised: the levels of an image pyramid in decorrelated colour, or every pixel."""
    gradient: Weight = 1.0
    """Weight of the mean cosine distance per parameter."""
    embedding_emphasis: Weight = 4.0
    """By what the distance of the patch embedding's weight, whose gradient is linear in the pixels, is multiplied in that mean;
    three times as much up to 64 pixels with a free adjoint."""
    position_matching: Weight = 0.3
    """Weight of the mean cosine distance of the position rows, longer rows counting more."""
    position_error: Weight = 0.1
    """Weight of the relative squared error of the position rows, after 30 % of the steps."""
    equations: Weight = 10.0
    """Weight of the closed form's linear system as a soft term, its relative squared residual, where that form is the start."""
    equation_floor: Annotated[float, Field(gt=0)] = 1.0
    """Share of the largest singular value of that system below which its equations are not weighed up any further."""
    features: Weight = 0.1
    """Weight of the squared error of what the last block tells of each image of a batch, where that can be solved for."""
    total_variation: Weight | None = None
    """Weight of total variation at the start; None: 0.8, and 0.01 up to 64 pixels with a free adjoint."""
    total_variation_end: Weight | None = None
    """Weight of total variation at the end, in between it changes in equal ratios; None: 0.03, or 0.0005."""
    variation_balance: Weight = 0.5
    """A patch's variation counts by the inverse of its position gradient's length to this power: more where little is known."""
    patch_prior: Weight | None = None
    """Weight of the mean squared difference across patch borders; None: 1, or 0.1."""
    chroma: Weight | None = None
    """Weight of the mean squared distance of the channels from their mean; None: 0.3, or 0.01."""
    squared_norm: Weight | None = None
    """Weight of the mean squared distance from mid-grey; None: 0.1, or 0.003."""
    registration: Weight = 1e-2
    """Weight of the distance to the consensus of the trials."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Adam's learning rate, pixels in [0, 1]; None: 0.05, and 0.015 where the adjoint is not free."""
    fine_rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    """By what the learning rate is multiplied from one level of the pyramid to the next finer one, below a patch's size."""
    adjoint_rate: Annotated[float, Field(gt=0)] = 0.03
    """Adam's learning rate of the adjoint, relative to its size at each token; four times as much up to 64 pixels."""
    second_moment: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Adam's second decay rate."""
    hold: Annotated[float, Field(ge=0, lt=1)] = 0.4
    """Share of the steps at the full learning rate; then half a cosine to 0."""
    start: Start | Literal["auto", "closed-form"] = "auto"
    """Start images: uniform in [0, 1], normal around mid-grey (deviation 0.25), mid-grey with a little noise (0.05), or what
    `closed-form` finds; `auto`: the latter where patches are known to share a row, else mid-grey."""
    relocation: bool = False
    """Whether patches are moved to where the position gradient puts them (`adjoint=network`, one image, learned positions)."""
    relocation_every: Annotated[int, Field(gt=0)] = 40
    """Steps between relocations."""
    relocation_until: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of the steps after which nothing is relocated any more."""
    label_recovery: LabelRule = "last-layer"
    """How unknown labels are recovered: `idlg` (one image), `last-layer` (no repeats), `bias-counts` (repeats)."""

    def require(self, observation: Observation) -> None:
        """Refuses updates without any gradient of the layers that are matched."""
        if not any(map(_matched, observation.gradients)):
            raise UserError(
                f"attack {self.name} matches the gradients of the layers up to the first block, and this update of "
                f"{observation.model.name} has none of them; send them too, or use an attack on the classifier"
            )

    def group_size(self, observation: Observation) -> int:
        """As many as the engine attacks best in one step, by the size of this victim."""
        return matching_group_size(observation, self.trials, _matched)

    def run_group(
        self,
        observations: Sequence[Observation],
        *,
        generators: Sequence[torch.Generator],
        progress: Progress,
        compute: ComputeOptions,
    ) -> list[Reconstruction | Failure]:
        """Starts an adjoint for each where that applies, and inverts."""
        clients = Clients.of(observations, self.label_recovery)
        model, first = clients.simulation.model, observations[0]
        names = [name for name in clients.parameters if _matched(name) and name in first.gradients]
        free = self.adjoint == "free" and has_free_adjoint(model, first)
        adjoints = [self._adjoint(simulation, one, names) for simulation, one in clients.each] if free else []
        features = list[SampleFeatures]()
        if first.batch_size > 1 and self.features:
            clients, features = features_of_clients(clients)
        if free:  # They need the whole network; of them only the labels are kept.
            features = []
        sized = self._settings(model, free=free, images=first.batch_size)
        relocation = None if free else self._relocation(model, first, sized.steps)
        starts = self._starts(clients, generators)
        solved = not isinstance(starts, str)
        exact = solved and all(view.entries_are_exact for view in clients.views)
        contexts = self._contexts(clients, names, adjoints, exact=exact)
        priors = self._prior_terms(sized, model)
        if features:
            contexts = [context | one.context for context, one in zip(contexts, features, strict=True)]
            priors.append(PriorTerm("features", Constant(self.features), FeatureError(clients.simulation)))
        inversion = Inversion(
            simulate=first_block_simulator(clients.simulation) if free else self._network(clients, first),
            parameters={name: clients.parameters[name] for name in names},
            matching=self._matching_terms(clients.simulation, names, sized, exact=exact),
            priors=priors,
            steps=sized.steps,
            parametrisation=self._variables(model, sized),
            free={ADJOINT: Variable(self._adam(self.adjoint_rate * sized.adjoint_speed))} if free else {},
            relocation=relocation,
            exchange=self._exchange(clients, sized.steps) if free and first.batch_size > 1 else None,
        )
        return clients.invert(
            inversion,
            start=starts,
            trials=self.trials,
            generators=generators,
            progress=progress,
            compute=compute,
            contexts=contexts,
            free=[{ADJOINT: one.start.expand(self.trials, *one.start.shape)} for one in adjoints] or None,
            flags=self._flags(model, free=free, solved=solved),
        )

    def _starts(self, clients: Clients, generators: Sequence[torch.Generator]) -> Start | list[Tensor]:
        """Which start images, or those of each client, `[trials, 1, 3, height, width]`."""
        if self.start == "auto":
            hidden = [hidden_patches(simulation, clients.device) for simulation, _ in clients.each]
            first = clients.observations[0]
            solvable = first.batch_size == 1 and has_free_adjoint(clients.simulation.model, first)
            if not solvable or not all(mask is not None and mask.any() for mask in hidden):
                return "grey"
        elif self.start != "closed-form":
            return self.start
        pairs = zip(clients.observations, generators, strict=True)
        return [closed_form_start(observation, self.trials, generator) for observation, generator in pairs]

    def _settings(self, model: Victim, *, free: bool, images: int = 1) -> AdjointSettings:
        """What was given, and what goes with the size of the input where nothing was."""
        settings = settings_for(model.image_size, free=free, images=images)
        return replace(settings, **self.model_dump(include={one.name for one in fields(settings)}, exclude_none=True))

    def _flags(self, model: Victim, *, free: bool, solved: bool) -> list[str]:
        flags = [] if free or self.adjoint == "network" else ["free-adjoint-does-not-apply"]
        flags += ["started-from-closed-form"] if solved else []
        return flags if model.image_size in TUNED else [*flags, "size-not-tuned"]

    def _adjoint(self, simulation: Simulation, observation: Observation, names: Sequence[str]) -> FreeAdjoint:
        return free_adjoint(simulation, believed_gradients(simulation.view, observation, names), observation.batch_size)

    # The whole network, where the adjoint is not free

    def _network(self, clients: Clients, observation: Observation) -> Simulator:
        simulation = clients.simulation
        known = observed_residual(simulation, observation) is not None
        return residual_loss(simulation) if known else mean_cross_entropy(simulation)

    def _contexts(
        self, clients: Clients, names: Sequence[str], adjoints: Sequence[FreeAdjoint], *, exact: bool
    ) -> list[dict[str, Tensor]]:
        contexts = []
        for place, (simulation, observation) in enumerate(clients.each):
            residual = observed_residual(simulation, observation)
            believed = believed_gradients(simulation.view, observation, names)
            context = {VARIATION: variation_weights(simulation, observation, believed, self.variation_balance)}
            if exact:
                context[EQUATION_WEIGHTS] = equation_weights(simulation.model, believed, self.equation_floor)
            if adjoints:
                context |= adjoints[place].context
            elif residual is not None:
                context["residual"] = residual
            else:
                context["labels"] = clients.labels[place]
            contexts.append(context)
        return contexts

    def _relocation(self, model: Victim, observation: Observation, steps: int) -> Relocation | None:
        if not self.relocation or not has_free_adjoint(model, observation):
            return None
        return position_relocation(model, every=self.relocation_every, until=int(steps * self.relocation_until))

    def _exchange(self, clients: Clients, steps: int) -> Exchange | None:
        """Between the images of a batch; None where patches do not stand where the client's stood, as far as is known."""
        model, first = clients.simulation.model, clients.observations[0]
        probe = torch.rand(first.batch_size, *first.image_shape, generator=torch.Generator().manual_seed(0))
        if model.patch_size is None or not are_fed_as_they_are(clients.simulation, probe.to(first.device)):
            return None
        when = frozenset(range(_EXCHANGE_EVERY, int(steps * _EXCHANGE_UNTIL), _EXCHANGE_EVERY))
        return Exchange(when, model.patch_size, {ADJOINT: cast(Any, model.network).num_prefix_tokens})

    # Terms

    def _matching_terms(
        self, simulation: Simulation, names: Sequence[str], sized: AdjointSettings, *, exact: bool
    ) -> list[MatchingTerm]:
        model = simulation.model
        parts = model.parts() if model.patch_size else None
        emphasis = {} if parts is None else {parts.patch_weight: self.embedding_emphasis * sized.emphasis}
        terms = [MatchingTerm("gradient", Constant(self.gradient), LayerCosine(emphasis))]
        if parts is not None and parts.position is not None and parts.position in names:
            rows = parts.prefix_tokens + model.patch_count
            direction = RowCosine(parts.position, rows, power=1.0)
            terms.append(MatchingTerm("position", Constant(self.position_matching), direction))
            late = From(Constant(self.position_error), 0.3)
            terms.append(MatchingTerm("position-error", late, RowError(parts.position, rows)))
        if exact:
            terms.append(MatchingTerm("equations", Constant(self.equations), patch_equations(simulation)))
        return terms

    def _prior_terms(self, sized: AdjointSettings, model: Victim) -> list[PriorTerm]:
        terms = sized.priors(model.patch_size)
        if self.trials > 1:
            terms.append(PriorTerm("registration", Constant(self.registration), Registration()))
        return terms

    def _adam(self, rate: float) -> Adam:
        return Adam(Cosine(rate, self.hold), second_moment=self.second_moment)

    def _variables(self, model: Victim, sized: AdjointSettings) -> Parametrisation:
        if self.parametrisation == "pixels":
            return Pixels(self._adam(sized.learning_rate))
        sizes = pyramid_sizes(model.image_size)
        below_a_patch = sum(size > model.image_size // (model.patch_size or 1) for size in sizes)
        return Pyramid(sizes, self._adam(sized.learning_rate), below_a_patch, self.fine_rate)


def _matched(name: str) -> bool:
    """Whether a parameter lies before the end of the first block."""
    return is_in_group("first-block", name)
