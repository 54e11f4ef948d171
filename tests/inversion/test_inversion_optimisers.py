"""Optimisers, schedules and distances that the attacks of the field add to the engine."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from privbench.core import Progress
from privbench.inversion import (
    LBFGS,
    Adam,
    Constant,
    Cosine,
    Inversion,
    MatchingTerm,
    Milestones,
    Objective,
    Pixels,
    PriorTerm,
    QuasiNewton,
    SquaredError,
    SquaredNorm,
    Target,
    TotalVariation,
    Warmup,
    WholeCosine,
    parameter_gradients,
)

SHAPE = (1, 3, 4, 4)


def simulate(parameters: Mapping[str, Tensor], images: Tensor, context: Mapping[str, Tensor]) -> Tensor:
    """A scaled model c (w·x)², whose gradient determines x up to its sign once c is known."""
    return (images.flatten(1) @ parameters["w"]).square().sum() * context.get("scale", torch.zeros(())).exp()


def problem(generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
    """Parameters, the truth, and its gradient."""
    parameters = {"w": torch.rand(48, generator=generator)}
    truth = torch.rand(SHAPE, generator=generator)
    observed = parameter_gradients(simulate, parameters, truth[None], {})
    return parameters, truth, {name: value[0] for name, value in observed.items()}


class Keeping(Progress):
    """Keeps checkpoints as they were, starts from one, and counts reports."""

    def __init__(self, start: Mapping[str, Any] | None = None) -> None:
        self.start = start
        self.kept: list[Mapping[str, Any]] = []
        self.reports: list[int] = []

    def report(self, step: int, total: int, phase: str, *losses: Mapping[str, float]) -> None:
        self.reports.append(step)

    def save(self, state: Mapping[str, Any]) -> None:
        self.kept.append(deepcopy(dict(state)))

    def restore(self) -> Mapping[str, Any] | None:
        return self.start


def test_signed_adam_is_torchs_adam_on_signs(generator: torch.Generator) -> None:
    parameters, _, observed = problem(generator)
    start = torch.rand(1, *SHAPE, generator=generator)
    matching, priors = [MatchingTerm("g", Constant(1.0), WholeCosine())], [PriorTerm("v", Constant(0.1), TotalVariation())]
    adam = Adam(Milestones(0.02), first_moment=0.8, second_moment=0.99, signed=True)
    found = Inversion(simulate, parameters, matching, priors, 16, Pixels(adam)).solve(Target(observed, start))
    weight, images = parameters["w"].clone().requires_grad_(), start[0].clone().requires_grad_()
    reference = torch.optim.Adam([images], betas=(0.8, 0.99))
    for step in range(16):
        reference.param_groups[0]["lr"] = 0.02 * 0.1 ** sum(step >= point for point in (6, 10, 14))
        (gradient,) = torch.autograd.grad(simulate({"w": weight}, images, {}), [weight], create_graph=True)
        distance = 1 - torch.nn.functional.cosine_similarity(gradient, observed["w"], dim=0)
        variation = (images.diff(dim=-1)).abs().mean() + (images.diff(dim=-2)).abs().mean()
        (slope,) = torch.autograd.grad(distance + 0.1 * variation, [images])
        images.grad = slope.sign()
        reference.step()
        images.data.clamp_(0, 1)
    assert torch.allclose(found.images, images, atol=1e-5)


def test_the_step_decay_and_the_warmup() -> None:
    rate = Milestones(0.1)
    rates = [rate.at(step / 8) for step in range(8)]
    assert rates == pytest.approx([0.1] * 3 + [0.01] * 2 + [0.001] * 2 + [0.0001])
    warm = Warmup(Cosine(0.1), 0.25)
    assert [warm.at(0.0), warm.at(0.125)] == pytest.approx([0.0, 0.5 * Cosine(0.1).at(0.125)])
    assert warm.at(0.6) == Cosine(0.1).at(0.6)
    assert Warmup(Constant(1.0), 0.0).at(0.0) == 1.0


def test_the_whole_cosine_is_that_of_one_long_vector(generator: torch.Generator) -> None:
    candidate = {"a": torch.rand(2, 3, 4, generator=generator), "b": torch.rand(2, 5, generator=generator)}
    observed = {"a": torch.rand(3, 4, generator=generator), "b": torch.rand(5, generator=generator)}
    for names in (None, ("b",)):
        chosen = names or ("a", "b")
        target = torch.cat([observed[name].flatten() for name in chosen])
        for trial, value in enumerate(WholeCosine(names)(candidate, observed)):
            ours = torch.cat([candidate[name][trial].flatten() for name in chosen])
            assert value == pytest.approx(float(1 - torch.nn.functional.cosine_similarity(ours, target, dim=0)), abs=1e-6)
    grown = {name: 7 * value.expand(2, *value.shape) for name, value in observed.items()}
    assert WholeCosine()(grown, observed).abs().max() < 1e-6


# L-BFGS


def solver(parameters: Mapping[str, Tensor], *, steps: int, weight: float = 1.0, rate: float = 0.5) -> QuasiNewton:
    objective = Objective(simulate, [MatchingTerm("g", Constant(weight), SquaredError())], [], Pixels())
    return QuasiNewton(objective, parameters, steps, LBFGS(learning_rate=rate))


def test_it_finds_the_image_behind_a_gradient_and_optimised_context(generator: torch.Generator) -> None:
    parameters, truth, observed = problem(generator)
    start = torch.rand(2, *SHAPE, generator=generator)
    known = solver(parameters, steps=20, weight=1e-2).solve(Target(observed, start))
    assert (known.images - truth).abs().max() < 1e-2
    # With an unknown scale the image is determined up to that scale.
    found = solver(parameters, steps=20, weight=1e-2).solve(Target(observed, start), {"scale": torch.zeros(2)})
    assert found.losses["g"] < 1e-4
    rescaled = found.images * (0.5 * found.free["scale"]).exp()
    assert (rescaled - truth).abs().max() < 1e-2
    assert found.losses["matching"] == pytest.approx(1e-2 * found.losses["g"])


def test_l_bfgs_is_that_of_torch_through_double_backward(generator: torch.Generator) -> None:
    parameters, _, observed = problem(generator)
    start = torch.rand(1, *SHAPE, generator=generator)
    weight = parameters["w"].clone().requires_grad_()

    def reference(steps: int) -> Tensor:
        images = start[0].clone().requires_grad_()
        optimiser: Any = torch.optim.LBFGS([images], lr=0.3)

        def closure() -> Tensor:
            (gradient,) = torch.autograd.grad(simulate({"w": weight}, images, {}), [weight], create_graph=True)
            loss = 1e-3 * (gradient - observed["w"]).square().sum()
            (images.grad,) = torch.autograd.grad(loss, [images])
            return loss

        for _ in range(steps):
            optimiser.step(closure)
        return images

    for steps in (1, 4):  # directly, and as a recorded graph
        found = solver(parameters, steps=steps, weight=1e-3, rate=0.3).solve(Target(observed, start))
        assert torch.allclose(found.images, reference(steps), atol=1e-3)


def test_the_trial_with_the_smallest_objective_is_returned(generator: torch.Generator) -> None:
    parameters, truth, observed = problem(generator)
    start = torch.stack([torch.rand(SHAPE, generator=generator), truth, torch.rand(SHAPE, generator=generator)])
    found = solver(parameters, steps=1).solve(Target(observed, start))
    assert found.trial == 1


def test_divergence_keeps_the_best_iterate_before_it_and_is_counted(generator: torch.Generator) -> None:
    parameters, _, observed = problem(generator)
    start = torch.rand(1, *SHAPE, generator=generator)
    found = solver(parameters, steps=30, rate=1e6).solve(Target(observed, start))
    assert torch.isfinite(found.images).all()
    assert found.diverged == 1
    with pytest.raises(FloatingPointError, match="non-finite at the start"):
        solver(parameters, steps=1).solve(Target(observed, start * torch.inf))


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(generator: torch.Generator) -> None:
    parameters, _, observed = problem(generator)
    target = Target(observed, torch.rand(2, *SHAPE, generator=generator))
    scale = {"scale": torch.zeros(2)}
    whole = Keeping()
    expected = solver(parameters, steps=4, weight=1e-3).solve(target, scale, whole)
    assert whole.reports == list(range(1, 9))
    for kept in (1, 3, 5):  # in the first trial, at its end, in the second
        rest = Keeping(whole.kept[kept])
        continued = solver(parameters, steps=4, weight=1e-3).solve(target, scale, rest)
        assert rest.reports == whole.reports[kept + 1 :]
        assert torch.equal(continued.images, expected.images)
        assert torch.equal(continued.free["scale"], expected.free["scale"])
        assert continued.losses == expected.losses


def test_priors_count(generator: torch.Generator) -> None:
    parameters, _, observed = problem(generator)
    start = torch.rand(1, *SHAPE, generator=generator)
    objective = Objective(simulate, [], [PriorTerm("norm", Constant(1.0), SquaredNorm())], Pixels())
    found = QuasiNewton(objective, parameters, 5, LBFGS()).solve(Target(observed, start))
    assert torch.allclose(found.images, torch.full(SHAPE, 0.5), atol=1e-4)
