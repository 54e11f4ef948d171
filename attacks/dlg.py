"""Deep Leakage from Gradients (Zhu et al., NeurIPS 2019, arXiv 1906.08935): image and label by L-BFGS.

    argmin_{x, y}  |g(x, softmax(y)) - g|² / |g|²

No prior, no box; the label is a vector of logits that is optimised along with the pixels. `idlg` has the label read
off the last layer instead.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from privbench.adversary import (
    Simulation,
    Start,
    believed_gradients,
    mean_cross_entropy,
    postprocess_reconstruction,
    simulate,
    start_images,
)
from privbench.core import Attack, Observation, Progress, Reconstruction
from privbench.inversion import (
    LBFGS,
    Constant,
    MatchingTerm,
    Objective,
    Parametrisation,
    ParametrisationName,
    QuasiNewton,
    Simulator,
    SquaredError,
    Target,
    parametrisation,
)

__all__ = ["DeepLeakage", "LeakageAttack", "LeakageStart"]

LeakageStart = Start | Literal["standard-normal"]
"""As everywhere, or normal around 0 with deviation 1 in the network's own, normalised pixels (published)."""


class LeakageAttack(Attack):
    """What `dlg` and `idlg` share: all parameters, and everything but where the labels come from."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {},
        "paper": {"steps": 300, "learning_rate": 1.0, "start": "standard-normal"},
    }

    steps: Annotated[int, Field(gt=0)] = 40
    """Steps of each trial, of `evaluations` iterations each."""
    trials: Annotated[int, Field(gt=0)] = 1
    """Independent trials, one after the other; the one with the smallest matching loss is returned."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    """Length of a step relative to the quasi-Newton one (published: 1)."""
    evaluations: Annotated[int, Field(gt=0)] = 20
    """Iterations of L-BFGS within one step."""
    parametrisation: ParametrisationName = "pixels"
    """What is optimised: every pixel, or the levels of an image pyramid in decorrelated colour (ours)."""
    start: LeakageStart = "grey"
    """Start images: `standard-normal`, deviation 1 around 0 in normalised pixels (published); uniform in [0, 1]; normal around
    mid-grey (deviation 0.25); or mid-grey with a little noise (0.05)."""

    @abstractmethod
    def labels(self, observation: Observation, generator: torch.Generator) -> dict[str, Tensor]:
        """Either `labels`, `[batch]` int64, that stay, or `label-logits`, `[trials, batch, classes]`, to start from."""

    def run(self, observation: Observation, *, generator: torch.Generator, progress: Progress) -> Reconstruction:
        """Optimises the pixels, and the label logits where there are any."""
        images = _start_images(self.start, self.trials, observation, generator)
        labels = self.labels(observation, generator)
        solver = LBFGS(self.learning_rate, self.evaluations)
        made_of = parametrisation(self.parametrisation, observation.model.image_size)
        return _leak(
            observation, images, labels, made_of, steps=self.steps, solver=solver, generator=generator, progress=progress
        )


class DeepLeakage(LeakageAttack):
    """Squared-error matching by L-BFGS, the labels optimised jointly unless they are known."""

    name: ClassVar[str] = "dlg"

    def labels(self, observation: Observation, generator: torch.Generator) -> dict[str, Tensor]:
        """Known labels stay as they are; else normal logits to start from."""
        if observation.labels is not None:
            return {"labels": observation.labels}
        shape = (self.trials, observation.batch_size, observation.model.num_classes)
        return {"label-logits": torch.randn(shape, generator=generator).to(observation.device)}


def _start_images(start: LeakageStart, trials: int, observation: Observation, generator: torch.Generator) -> Tensor:
    """Candidates to start from, `[trials, batch, 3, height, width]`; only `standard-normal` leaves [0, 1]."""
    if start != "standard-normal":
        return start_images(start, trials, observation, generator)
    model = simulate(observation).model
    shape = (trials, observation.batch_size, *observation.image_shape)
    return model.mean + model.std * torch.randn(shape, generator=generator).to(observation.device)


def _leak(
    observation: Observation,
    images: Tensor,
    labels: Mapping[str, Tensor],
    made_of: Parametrisation,
    *,
    steps: int,
    solver: LBFGS,
    generator: torch.Generator,
    progress: Progress,
) -> Reconstruction:
    """Matches the whole gradient by L-BFGS.

    Args:
        observation: What the attacker sees.
        images: `[trials, batch, 3, height, width]` to start from.
        labels: `labels`, `[batch]` int64, that stay; or `label-logits`, `[trials, batch, classes]`, to start from.
        made_of: The variables that make up the images.
        steps: Of each trial.
        solver: L-BFGS's settings.
        generator: Source of what follows the solver.
        progress: Where to report to.

    Raises:
        FloatingPointError: The objective was non-finite from the start.
    """
    simulation = simulate(observation)
    size = torch.stack([gradient.square().sum() for gradient in observation.gradients.values()]).sum()
    # Relative to the observed size, so that the solver's absolute tolerances mean the same for every victim.
    weight = Constant(1 / max(float(size), 1e-30))
    joint = "label-logits" in labels
    problem = QuasiNewton(
        objective=Objective(
            simulate=_soft_cross_entropy(simulation) if joint else mean_cross_entropy(simulation),
            matching=[MatchingTerm("gradient", weight, SquaredError())],
            priors=[],
            parametrisation=made_of,
            send=simulation.view.transform_gradient,
        ),
        parameters=dict(simulation.model.named_parameters()),
        steps=steps,
        optimiser=solver,
    )
    fixed = {**simulation.view.known, **({} if joint else labels)}
    believed = believed_gradients(simulation.view, observation, observation.gradients)
    found = problem.solve(Target(believed, images, fixed), labels if joint else {}, progress)
    flags: list[str] = []
    if observation.labels is None:
        flags.append("labels-recovered")
    if found.diverged:
        flags.append("solver-diverged")
    result = Reconstruction(
        found.images.clamp(0, 1),
        labels=found.free["label-logits"].argmax(-1) if joint else labels["labels"],
        losses=found.losses,
        steps=steps * len(images),
        trials=len(images),
        flags=tuple(flags),
    )
    return postprocess_reconstruction(result, simulation, generator=generator)


def _soft_cross_entropy(simulation: Simulation) -> Simulator:
    return lambda parameters, images, context: simulation.loss(images, context["label-logits"].softmax(-1), context, parameters)
