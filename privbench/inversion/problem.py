"""An optimisation problem as data: what is minimised over which variables, for whom, and what comes of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from privbench.core import GradientTransform
from privbench.inversion.exchange import Exchange
from privbench.inversion.registration import Consensus
from privbench.inversion.relocation import Relocation
from privbench.inversion.step import Objective, Simulator, Step
from privbench.inversion.terms import MatchingTerm, PriorTerm
from privbench.inversion.variables import Parametrisation, Variable

__all__ = ["Outcome", "Problem", "Target"]


@dataclass(frozen=True)
class Target:
    """One victim: what is particular to it.

    Attributes:
        observed: The observed gradients by parameter name, the names that the inversion matches.
        start: Images `[trials, batch, 3, height, width]` in [0, 1].
        context: What the simulator needs to know of this victim; the same names and shapes in all targets of a group.
        free: Where the free variables start: name to `[trials, ...]`.
    """

    observed: Mapping[str, Tensor]
    start: Tensor
    context: Mapping[str, Tensor] = field(default_factory=dict)
    free: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What the engine found for one victim.

    Attributes:
        images: `[batch, 3, height, width]` in [0, 1], of the trial with the smallest matching loss at the end.
        losses: Final value of every term of that trial, by name, unweighted, and `matching`, the weighted sum that selects.
        trial: Which trial it is.
        free: The free variables of that trial, by name.
    """

    images: Tensor
    losses: dict[str, float]
    trial: int
    free: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """One optimisation problem, the same for all victims of a group.

    Attributes:
        simulate: The simulated client's loss.
        parameters: The matched parameters of the simulated model by name.
        matching: Gradient distances; all weights 0 is a control run that never computes a gradient.
        priors: Image priors.
        steps: Optimisation steps.
        parametrisation: The variables that make up the images.
        free: Variables besides these, which the simulator finds in its context.
        relocation: Moves of patches, None for none.
        exchange: Exchanges of patches between the images of a batch, None for none.
        consensus: What the trials agree on, a free variable that the loop renews; None for none.
        phase: The name of the schedule's phase at a progress in [0, 1), for display and trace.
        send: What the attacker does to a simulated gradient before it is compared; None for nothing.
    """

    simulate: Simulator
    parameters: Mapping[str, Tensor]
    matching: Sequence[MatchingTerm]
    priors: Sequence[PriorTerm]
    steps: int
    parametrisation: Parametrisation
    free: Mapping[str, Variable] = field(default_factory=dict)
    relocation: Relocation | None = None
    exchange: Exchange | None = None
    consensus: Consensus | None = None
    phase: Callable[[float], str] = lambda _: "matching"
    send: GradientTransform | None = None

    @property
    def variables(self) -> dict[str, Variable]:
        """Every variable by name."""
        return {**self.parametrisation.variables, **self.free}

    def active(self, step: int) -> Step:
        """The terms whose weight is not 0 at a step."""
        share = step / self.steps
        objective = Objective(
            self.simulate,
            [term for term in self.matching if term.weight.at(share) != 0],
            [term for term in self.priors if term.weight.at(share) != 0],
            self.parametrisation,
            self.send,
        )
        return Step(objective, self.variables)

    def weights(self, step: int) -> dict[str, float]:
        """The weights of the active terms at a step, by name."""
        share = step / self.steps
        weights = {term.name: term.weight.at(share) for term in self.matching}
        weights |= {term.name: term.weight.at(share) for term in self.priors}
        return {name: weight for name, weight in weights.items() if weight != 0}
