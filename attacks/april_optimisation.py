"""APRIL's optimisation variant (Lu et al., CVPR 2022, arXiv 2112.14087): the position embedding's gradient counts by itself.

    argmin_x  |g(x) - g|² + α (1 - cos(∂L/∂PE(x), ∂L/∂PE))

It takes any vision transformer with a learned position embedding, where the closed form (`april`) needs a special first block.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from privbench.adversary import Clients, Start, matching_group_size, mean_cross_entropy, simulate
from privbench.core import ComputeOptions, Failure, GroupAttack, Observation, Progress, Reconstruction, UserError
from privbench.inversion import Adam, Constant, Cosine, Inversion, MatchingTerm, ParametrisationName, SquaredError, WholeCosine
from privbench.label_recovery import LabelRule

__all__ = ["AprilOptimisation"]


class AprilOptimisation(GroupAttack):
    """Squared-error matching plus the cosine distance of the position embedding's gradient."""

    name: ClassVar[str] = "april-optimisation"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"quick": {}, "standard": {"steps": 8000, "trials": 2}}

    steps: Annotated[int, Field(gt=0)] = 1000
    """Optimisation steps of each trial."""
    trials: Annotated[int, Field(gt=0)] = 1
    """Independent trials, run side by side; the one with the smallest objective is returned."""
    gradient: Annotated[float, Field(ge=0)] = 1e-3
    """Weight of the squared error over all parameters."""
    position: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the cosine distance of the position embedding's gradient, the whole table as one vector."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.03
    """Adam's learning rate at the start, pixels in [0, 1]; it falls to 0 by a cosine."""
    parametrisation: ParametrisationName = "pixels"
    """What is optimised: every pixel, or the levels of an image pyramid in decorrelated colour (ours)."""
    start: Start = "grey"
    """Start images: uniform in [0, 1], normal around mid-grey (deviation 0.25), or mid-grey with a little noise (0.05)."""
    label_recovery: LabelRule = "last-layer"
    """How unknown labels are recovered: `idlg` (one image), `last-layer` (no repeats), `bias-counts` (repeats)."""

    def require(self, observation: Observation) -> None:
        """A vision transformer with a learned position embedding."""
        _position_table(observation)

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
        """Matches all gradients, the position embedding's twice."""
        clients = Clients.of(observations, self.label_recovery)
        table = _position_table(observations[0])
        inversion = Inversion(
            simulate=mean_cross_entropy(clients.simulation),
            parameters=clients.parameters,
            matching=[
                MatchingTerm("gradient", Constant(self.gradient), SquaredError()),
                MatchingTerm("position", Constant(self.position), WholeCosine((table,))),
            ],
            priors=[],
            steps=self.steps,
            parametrisation=clients.variables(self.parametrisation, Adam(Cosine(self.learning_rate))),
        )
        return clients.invert(
            inversion,
            start=self.start,
            trials=self.trials,
            generators=generators,
            progress=progress,
            compute=compute,
        )


def _position_table(observation: Observation) -> str:
    model = simulate(observation).model
    table = model.parts().position if model.patch_size else None
    if table is None:
        raise UserError(
            "attack april-optimisation needs a vision transformer with a learned position embedding, and "
            f"{observation.model.name} sends no such gradient; inverting-gradients or gradvit take it"
        )
    return table
