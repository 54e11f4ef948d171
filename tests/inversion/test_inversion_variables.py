"""Variables besides pixels: image pyramids, free variables that the simulator reads, moments that move with the pixels."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from privbench.core import ComputeOptions
from privbench.core.patches import rearrange
from privbench.inversion import (
    Adam,
    Constant,
    Cosine,
    Inversion,
    MatchingTerm,
    Outcome,
    Parametrisation,
    Pixels,
    Pyramid,
    SquaredError,
    Target,
    Variable,
    parameter_gradients,
    pyramid_sizes,
    runner,
)
from privbench.inversion.plain import plain_step
from privbench.inversion.plan import Plan, settings_at
from privbench.inversion.variables import Moving

PYRAMID = Pyramid((4, 8, 16), Adam(Constant(0.02)), fine_levels=2, fine_rate=0.5)


def test_a_pyramid_makes_up_the_images_that_it_began_with(generator: torch.Generator) -> None:
    images = torch.rand(2, 1, 3, 16, 16, generator=generator)
    levels = PYRAMID.begin(images)
    assert {name: value.shape[-1] for name, value in levels.items()} == {"level-4": 4, "level-8": 8, "level-16": 16}
    assert torch.allclose(PYRAMID.images(levels), images, atol=1e-6)
    # A flat image lies in the coarsest level alone.
    flat = PYRAMID.begin(torch.full((1, 3, 16, 16), 0.7))
    assert float(flat["level-16"].abs().max()) < 1e-6
    assert float(flat["level-4"].abs().max()) > 0.1


def test_fine_levels_move_more_slowly() -> None:
    rates = settings_at(0, 1, PYRAMID.variables, {})["rates"]
    assert rates == pytest.approx({"level-4": 0.02, "level-8": 0.01, "level-16": 0.005})


def test_the_first_channel_of_a_pyramid_is_brightness() -> None:
    levels = PYRAMID.begin(torch.full((1, 3, 16, 16), 0.5))
    levels["level-4"] = levels["level-4"].clone()
    levels["level-4"][:, 0] += 0.1
    change = PYRAMID.images(levels) - 0.5
    assert torch.allclose(change, torch.full_like(change, 0.1), atol=0.005)


@pytest.mark.parametrize(("size", "sizes"), [(32, (4, 8, 16, 32)), (224, (7, 14, 28, 56, 112, 224)), (30, (15, 30))])
def test_the_sizes_of_a_pyramid_are_halves(size: int, sizes: tuple[int, ...]) -> None:
    assert pyramid_sizes(size) == sizes


@pytest.mark.parametrize("made_of", [Pixels(), PYRAMID])
def test_pixels_move_with_their_moments(made_of: Parametrisation, generator: torch.Generator) -> None:
    images = torch.rand(1, 3, 16, 16, generator=generator)
    values = made_of.begin(images)
    moving = Moving(
        values, {n: torch.rand_like(v) for n, v in values.items()}, {n: torch.rand_like(v) for n, v in values.items()}
    )
    order = torch.randperm(16, generator=generator)
    moved = made_of.moved(moving, lambda whole: rearrange(whole, order, 4))
    assert torch.allclose(made_of.images(moved.values), rearrange(images, order, 4), atol=1e-6)
    finest = list(values)[-1]
    for before, after in ((moving.first, moved.first), (moving.second, moved.second)):
        assert torch.equal(after[finest], rearrange(before[finest], order, 4))


# A model whose loss is w·x times a scale that the attacker does not know: the scale is a free variable.


def simulate(parameters: Mapping[str, Tensor], images: Tensor, context: Mapping[str, Tensor]) -> Tensor:
    return (images.flatten(1) @ parameters["w"]).square().sum() * context["scale"] * context["known"]


def _problem(generator: torch.Generator, made_of: Parametrisation, steps: int) -> tuple[Inversion, list[Target]]:
    parameters = {"w": torch.rand(768, generator=generator) / 8, "v": torch.ones(1)}
    problem = Inversion(
        simulate=lambda given, images, context: simulate(given, images, context) + (given["v"] * context["scale"]).sum(),
        parameters=parameters,
        matching=[MatchingTerm("gradient", Constant(1.0), SquaredError())],
        priors=[],
        steps=steps,
        parametrisation=made_of,
        free={"scale": Variable(Adam(Cosine(0.1)))},
    )
    targets = []
    for scale in (1.5, 0.5):
        truth = torch.rand(1, 3, 16, 16, generator=generator)
        context = {"known": torch.tensor(1e-3), "scale": torch.tensor(scale)}
        observed = parameter_gradients(problem.simulate, parameters, truth[None], context)
        start = torch.rand(2, 1, 3, 16, 16, generator=generator)
        free = {"scale": torch.tensor([1.0, 0.9])}
        targets.append(Target({name: value[0] for name, value in observed.items()}, start, {"known": torch.tensor(1e-3)}, free))
    return problem, targets


def _outcomes(problem: Inversion, targets: list[Target]) -> list[Outcome]:
    found = problem.run(targets, compute=ComputeOptions(compile="off"))
    assert all(isinstance(one, Outcome) for one in found)
    return [one for one in found if isinstance(one, Outcome)]


@pytest.mark.parametrize("made_of", [Pixels(Adam(Cosine(0.03))), Pyramid((4, 8, 16), Adam(Cosine(0.02)))])
def test_a_free_variable_is_found_along_with_the_images(made_of: Parametrisation, generator: torch.Generator) -> None:
    problem, targets = _problem(generator, made_of, steps=300)
    for outcome, scale in zip(_outcomes(problem, targets), (1.5, 0.5), strict=True):
        assert float(outcome.free["scale"]) == pytest.approx(scale, abs=0.05)
        assert outcome.losses["gradient"] < 1e-2


@pytest.mark.parametrize("record_from", [0, 10**9])  # as a recorded graph, and directly
def test_victims_with_free_variables_do_not_touch_each_other(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator, record_from: int
) -> None:
    monkeypatch.setattr(runner, "_RECORD_FROM", record_from)
    problem, targets = _problem(generator, PYRAMID, steps=12)
    for target, together in zip(targets, _outcomes(problem, targets), strict=True):
        (alone,) = _outcomes(problem, [target])
        assert torch.allclose(alone.images, together.images, atol=1e-5)
        assert torch.allclose(alone.free["scale"], together.free["scale"], atol=1e-5)


def test_the_plain_step_is_the_step(generator: torch.Generator) -> None:
    problem, targets = _problem(generator, PYRAMID, steps=100)
    begun = [{**PYRAMID.begin(target.start), **target.free} for target in targets]
    moving = Moving.at_rest({name: torch.stack([one[name] for one in begun]) for name in begun[0]})
    observed = {name: torch.stack([target.observed[name] for target in targets]) for name in problem.parameters}
    context = {"known": torch.full((2,), 1e-3)}
    layout, row = Plan([settings_at(0, 1, problem.variables, problem.weights(0))], moving.tensors[0]).at(0)
    arguments = (layout.settings(row), observed, context, problem.parameters)
    (ours, losses), (plain, same) = problem.active(0)(moving, *arguments), plain_step(problem.active(0), moving, *arguments)
    assert torch.allclose(losses, same, rtol=1e-5)
    for left, right in zip(ours.tensors, plain.tensors, strict=True):
        assert torch.allclose(left, right, rtol=1e-4, atol=1e-7)
