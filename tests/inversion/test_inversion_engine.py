"""The engine on small problems whose answers are known."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from privbench.core import Progress
from privbench.inversion import (
    Constant,
    Cosine,
    Halves,
    Inversion,
    MatchingTerm,
    PriorTerm,
    SquaredError,
    SquaredNorm,
    TotalVariation,
    candidate_gradients,
)
from privbench.inversion.priors import ImagePrior

SHAPE = (1, 3, 4, 4)


class Keeper(Progress):
    """Keeps reports and checkpoints; can stop a run in the middle, as a kill would."""

    def __init__(self, stop_at: int | None = None, saved: Mapping[str, Any] | None = None) -> None:
        self.reports: list[tuple[int, int, str, dict[str, float]]] = []
        self.saved = saved
        self.stop_at = stop_at

    def report(self, step: int, total: int, phase: str, losses: Mapping[str, float]) -> None:
        self.reports.append((step, total, phase, dict(losses)))

    def save(self, state: Mapping[str, Any]) -> None:
        self.saved = {**state}
        if self.stop_at is not None and state["step"] >= self.stop_at:
            raise KeyboardInterrupt

    def restore(self) -> Mapping[str, Any] | None:
        return self.saved


def _linear_problem(generator: torch.Generator, **changes: Any) -> tuple[Inversion, Tensor]:
    """A model w·x with squared loss: its gradient (w·x) x determines x up to its sign."""
    truth = torch.rand(SHAPE, generator=generator)
    weight = torch.rand(48, generator=generator).requires_grad_(True)

    def simulate(images: Tensor) -> Tensor:
        return (images.flatten(1) @ weight).square().sum()

    observed = {"w": torch.autograd.grad(simulate(truth), [weight])[0].detach()}
    base: dict[str, Any] = {
        "simulate": simulate,
        "parameters": {"w": weight},
        "observed": observed,
        "matching": [MatchingTerm("gradient", Constant(1.0), SquaredError())],
        "priors": [],
        "steps": 400,
        "learning_rate": Cosine(0.05),
    }
    return Inversion(**(base | changes)), truth


def test_candidate_gradients_are_those_of_each_trial(generator: torch.Generator) -> None:
    problem, _ = _linear_problem(generator)
    images = torch.rand(3, *SHAPE, generator=generator)
    gradients = candidate_gradients(problem.simulate, problem.parameters, images)["w"]
    weight = problem.parameters["w"]
    for trial in range(3):
        flat = images[trial].flatten()
        assert torch.allclose(gradients[trial], 2 * (flat @ weight) * flat)


def test_it_finds_the_image_behind_a_gradient(generator: torch.Generator) -> None:
    problem, truth = _linear_problem(generator)
    outcome = problem.run(torch.full((1, *SHAPE), 0.5), Progress())
    assert (outcome.images - truth).abs().max() < 1e-2
    assert outcome.losses["gradient"] < 1e-3


def test_pixels_stay_in_range(generator: torch.Generator) -> None:
    problem, _ = _linear_problem(generator, steps=3, learning_rate=Constant(5.0))
    images = problem.run(torch.rand(1, *SHAPE, generator=generator), Progress()).images
    assert images.min() >= 0
    assert images.max() <= 1


def test_the_trial_with_the_smallest_matching_loss_is_chosen_whatever_the_priors_say(generator: torch.Generator) -> None:
    # Trial 1 starts at the truth; trial 0 is flat, which the prior likes far better.
    priors = [PriorTerm("variation", Constant(1e6), TotalVariation())]
    problem, truth = _linear_problem(generator, steps=1, learning_rate=Constant(1e-9), priors=priors)
    start = torch.stack([torch.full(SHAPE, 0.5), truth])
    assert problem.run(start, Progress()).trial == 1


class CountingPrior(ImagePrior):
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images.flatten(1).mean(1)


def test_a_term_is_not_computed_while_its_weight_is_zero(generator: torch.Generator) -> None:
    prior = CountingPrior()
    problem, _ = _linear_problem(generator, steps=20, priors=[PriorTerm("bn", Halves(0.0, 0.1), prior)])
    problem.run(torch.rand(1, *SHAPE, generator=generator), Progress())
    assert prior.calls == 9 + 1  # steps 11 to 19, and the final evaluation


def test_a_control_run_never_computes_a_gradient(generator: torch.Generator) -> None:
    def forbidden(images: Tensor) -> Tensor:
        raise AssertionError("the control run asked for a gradient")

    problem, _ = _linear_problem(
        generator,
        simulate=forbidden,
        matching=[MatchingTerm("gradient", Constant(0.0), SquaredError())],
        priors=[PriorTerm("norm", Constant(1.0), SquaredNorm())],
        steps=300,
    )
    images = problem.run(torch.rand(1, *SHAPE, generator=generator), Progress()).images
    assert torch.allclose(images, torch.full(SHAPE, 0.5), atol=1e-2)


def test_a_trial_does_not_depend_on_the_others(generator: torch.Generator) -> None:
    problem, _ = _linear_problem(generator, steps=30)
    starts = torch.rand(2, *SHAPE, generator=generator)
    together = candidate_gradients(problem.simulate, problem.parameters, starts)["w"]
    alone = [candidate_gradients(problem.simulate, problem.parameters, start[None])["w"][0] for start in starts]
    assert torch.equal(together, torch.stack(alone))


def test_an_interrupted_run_goes_on_bit_for_bit(generator: torch.Generator) -> None:
    problem, _ = _linear_problem(generator, steps=100)
    start = torch.rand(2, *SHAPE, generator=generator)
    whole = Keeper()
    expected = problem.run(start, whole)
    broken = Keeper(stop_at=50)
    with pytest.raises(KeyboardInterrupt):
        problem.run(start, broken)
    resumed = Keeper(saved=broken.saved)
    actual = problem.run(start, resumed)
    assert torch.equal(actual.images, expected.images)
    assert actual.losses == expected.losses
    assert resumed.reports == [report for report in whole.reports if report[0] > 50]


def test_reports_carry_step_phase_and_losses(generator: torch.Generator) -> None:
    keeper = Keeper()
    problem, _ = _linear_problem(generator, steps=25, phase=lambda share: "early" if share <= 0.5 else "late")
    problem.run(torch.rand(1, *SHAPE, generator=generator), keeper)
    assert [(step, total, phase) for step, total, phase, _ in keeper.reports] == [
        (10, 25, "early"),
        (20, 25, "late"),
        (25, 25, "late"),
    ]
    assert keeper.reports[-1][3]["gradient"] < keeper.reports[0][3]["gradient"]


def test_a_loss_that_is_not_finite_stops_the_run_in_one_line(generator: torch.Generator) -> None:
    class Broken(ImagePrior):
        def __call__(self, images: Tensor) -> Tensor:
            return images.flatten(1).mean(1) * float("nan")

    problem, _ = _linear_problem(generator, steps=10, priors=[PriorTerm("bad", Constant(1.0), Broken())])
    with pytest.raises(FloatingPointError, match="became non-finite at step 10"):
        problem.run(torch.rand(1, *SHAPE, generator=generator), Progress())
