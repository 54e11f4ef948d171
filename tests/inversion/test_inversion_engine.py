"""The engine on small problems whose answers are known."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from privbench.core import ComputeOptions, Failure, Progress
from privbench.inversion import (
    Adam,
    Constant,
    Cosine,
    Inversion,
    MatchingTerm,
    Outcome,
    Pixels,
    PriorTerm,
    Registration,
    SquaredError,
    SquaredNorm,
    Target,
    TotalVariation,
    TwoPhase,
    loop,
    parameter_gradients,
    runner,
)
from privbench.inversion.priors import ImagePrior

SHAPE = (1, 3, 4, 4)


class Keeper(Progress):
    """Keeps reports, notes and checkpoints; can stop a run in the middle, as a kill would."""

    def __init__(self, stop_at: int | None = None, saved: Mapping[str, Any] | None = None) -> None:
        self.reports: list[tuple[int, int, str, list[dict[str, float]]]] = []
        self.notes: list[str] = []
        self.pictures: dict[int, list[Tensor]] = {}
        self.saved = saved
        self.stop_at = stop_at

    def report(self, step: int, total: int, phase: str, *losses: Mapping[str, float]) -> None:
        self.reports.append((step, total, phase, [dict(one) for one in losses]))

    def picture(self, step: int, *images: Tensor) -> None:
        self.pictures[step] = [one.clone() for one in images]

    def note(self, message: str) -> None:
        self.notes.append(message)

    def save(self, state: Mapping[str, Any]) -> None:
        self.saved = {**state}
        if self.stop_at is not None and state["step"] >= self.stop_at:
            raise KeyboardInterrupt

    def restore(self) -> Mapping[str, Any] | None:
        return self.saved


def simulate(parameters: Mapping[str, Tensor], images: Tensor, context: Mapping[str, Tensor]) -> Tensor:
    """A model w·x with squared loss: its gradient (w·x) x determines x up to its sign."""
    return (images.flatten(1) @ parameters["w"]).square().sum()


def problem_for(generator: torch.Generator, **changes: Any) -> Inversion:
    base: dict[str, Any] = {
        "simulate": simulate,
        "parameters": {"w": torch.rand(48, generator=generator)},
        "matching": [MatchingTerm("gradient", Constant(1.0), SquaredError())],
        "priors": [],
        "steps": 400,
        "parametrisation": Pixels(Adam(Cosine(0.05))),
    }
    return Inversion(**(base | changes))


def target_for(problem: Inversion, truth: Tensor, start: Tensor | None = None, **context: Tensor) -> Target:
    observed = parameter_gradients(problem.simulate, problem.parameters, truth[None], context)
    return Target(
        {name: value[0] for name, value in observed.items()},
        torch.full((1, *truth.shape), 0.5) if start is None else start,
        context,
    )


def solve(problem: Inversion, *targets: Target, progress: Progress | None = None, compiled: str = "off") -> list[Outcome]:
    found = problem.run(targets, progress, ComputeOptions(compile=compiled))  # type: ignore[arg-type]
    assert all(isinstance(outcome, Outcome) for outcome in found)
    return [outcome for outcome in found if isinstance(outcome, Outcome)]


def test_parameter_gradients_are_those_of_each_trial(generator: torch.Generator) -> None:
    problem = problem_for(generator)
    images = torch.rand(3, *SHAPE, generator=generator)
    gradients = parameter_gradients(problem.simulate, problem.parameters, images, {})["w"]
    for trial in range(3):
        flat = images[trial].flatten()
        assert torch.allclose(gradients[trial], 2 * (flat @ problem.parameters["w"]) * flat)


@pytest.mark.parametrize("record_from", [0, 10**9])  # as a recorded graph, and directly
def test_it_finds_the_image_behind_a_gradient(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator, record_from: int
) -> None:
    monkeypatch.setattr(runner, "_RECORD_FROM", record_from)
    problem = problem_for(generator)
    truth = torch.rand(SHAPE, generator=generator)
    (outcome,) = solve(problem, target_for(problem, truth))
    assert (outcome.images - truth).abs().max() < 1e-2
    assert outcome.losses["gradient"] < 1e-3


def test_pixels_stay_in_range(generator: torch.Generator) -> None:
    problem = problem_for(generator, steps=3, parametrisation=Pixels(Adam(Constant(5.0))))
    start = torch.rand(1, *SHAPE, generator=generator)
    (outcome,) = solve(problem, target_for(problem, torch.rand(SHAPE, generator=generator), start))
    assert outcome.images.min() >= 0
    assert outcome.images.max() <= 1


def test_a_step_is_that_of_torchs_adam_through_double_backward(generator: torch.Generator) -> None:
    steps, rate = 12, 0.03
    problem = problem_for(
        generator,
        steps=steps,
        parametrisation=Pixels(Adam(Constant(rate), second_moment=0.99)),
        priors=[PriorTerm("variation", Constant(0.3), TotalVariation())],
    )
    truth, start = torch.rand(SHAPE, generator=generator), torch.rand(1, *SHAPE, generator=generator)
    target = target_for(problem, truth, start)
    (outcome,) = solve(problem, target)
    weight = problem.parameters["w"].clone().requires_grad_(True)
    images = start[0].clone().requires_grad_(True)
    adam = torch.optim.Adam([images], lr=rate, betas=(0.9, 0.99))
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(simulate({"w": weight}, images, {}), [weight], create_graph=True)
        loss = (gradient - target.observed["w"]).square().sum() + 0.3 * TotalVariation()(images[None]).sum()
        (images.grad,) = torch.autograd.grad(loss, [images])
        adam.step()
        with torch.no_grad():
            images.clamp_(0, 1)
    assert torch.allclose(outcome.images, images.detach(), atol=1e-5)


def test_the_trial_with_the_smallest_matching_loss_is_chosen_whatever_the_priors_say(generator: torch.Generator) -> None:
    # Trial 1 starts at the truth; trial 0 is flat, which the prior likes far better.
    priors = [PriorTerm("variation", Constant(1e6), TotalVariation())]
    problem = problem_for(generator, steps=1, parametrisation=Pixels(Adam(Constant(1e-9))), priors=priors)
    truth = torch.rand(SHAPE, generator=generator)
    (outcome,) = solve(problem, target_for(problem, truth, torch.stack([torch.full(SHAPE, 0.5), truth])))
    assert outcome.trial == 1


def test_guesses_are_shown_two_dozen_times_of_the_trial_that_fits_best(generator: torch.Generator) -> None:
    problem = problem_for(generator, steps=505, parametrisation=Pixels(Adam(Constant(1e-4))))
    truths = torch.rand(2, *SHAPE, generator=generator)
    wrong = torch.full(SHAPE, 0.9)
    targets = [
        target_for(problem, truth, torch.stack([wrong, truth] if place else [truth, wrong]))
        for place, truth in enumerate(truths)
    ]
    keeper = Keeper()
    outcomes = solve(problem, *targets, progress=keeper)
    assert [outcome.trial for outcome in outcomes] == [0, 1]
    assert list(keeper.pictures) == [*range(20, 505, 20), 505]
    assert set(keeper.pictures) <= {step for step, *_ in keeper.reports}
    for shown in keeper.pictures.values():
        for guess, truth in zip(shown, truths, strict=True):
            assert guess.shape == SHAPE
            assert (guess - truth).abs().max() < 0.1
    assert all(torch.equal(*pair) for pair in zip(keeper.pictures[505], [outcome.images for outcome in outcomes], strict=True))


class CountingPrior(ImagePrior):
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images.flatten(1).mean(1)


def test_a_term_is_not_computed_while_its_weight_is_zero(generator: torch.Generator) -> None:
    prior = CountingPrior()
    problem = problem_for(generator, steps=20, priors=[PriorTerm("bn", TwoPhase(0.0, 0.1), prior)])
    solve(problem, target_for(problem, torch.rand(SHAPE, generator=generator)))
    assert prior.calls == 9 + 1  # steps 11 to 19, and the final evaluation


def test_a_control_run_never_computes_a_gradient(generator: torch.Generator) -> None:
    def forbidden(parameters: Mapping[str, Tensor], images: Tensor, context: Mapping[str, Tensor]) -> Tensor:
        raise AssertionError("the control run asked for a gradient")

    problem = problem_for(
        generator,
        simulate=forbidden,
        matching=[MatchingTerm("gradient", Constant(0.0), SquaredError())],
        priors=[PriorTerm("norm", Constant(1.0), SquaredNorm())],
        steps=300,
    )
    target = Target({"w": torch.ones(48)}, torch.rand(1, *SHAPE, generator=generator))
    (outcome,) = solve(problem, target)
    assert torch.allclose(outcome.images, torch.full(SHAPE, 0.5), atol=1e-2)


@pytest.mark.parametrize("steps", [20, 100])
def test_a_victim_does_not_depend_on_what_shares_its_group(generator: torch.Generator, steps: int) -> None:
    def scaled(parameters: Mapping[str, Tensor], images: Tensor, context: Mapping[str, Tensor]) -> Tensor:
        return simulate(parameters, images, context) * context["scale"]

    problem = problem_for(generator, simulate=scaled, steps=steps, priors=[PriorTerm("r", Constant(0.1), Registration())])
    targets = [
        target_for(
            problem,
            torch.rand(SHAPE, generator=generator),
            torch.rand(2, *SHAPE, generator=generator),
            scale=torch.rand((), generator=generator) + 0.5,
        )
        for _ in range(3)
    ]
    together = solve(problem, *targets)
    for target, outcome in zip(targets, together, strict=True):
        (alone,) = solve(problem, target)
        assert alone.trial == outcome.trial
        assert torch.allclose(alone.images, outcome.images, atol=1e-4)


def test_trials_of_a_step_do_not_touch_each_other(generator: torch.Generator) -> None:
    problem = problem_for(generator)
    starts = torch.rand(2, *SHAPE, generator=generator)
    together = parameter_gradients(problem.simulate, problem.parameters, starts, {})["w"]
    alone = [parameter_gradients(problem.simulate, problem.parameters, start[None], {})["w"][0] for start in starts]
    assert torch.allclose(together, torch.stack(alone), rtol=1e-6)


@pytest.mark.parametrize("steps", [50, 100])
def test_an_interrupted_run_goes_on_bit_for_bit(generator: torch.Generator, steps: int) -> None:
    problem = problem_for(generator, steps=steps)
    targets = [
        target_for(problem, torch.rand(SHAPE, generator=generator), torch.rand(2, *SHAPE, generator=generator))
        for _ in range(2)
    ]
    whole = Keeper()
    expected = solve(problem, *targets, progress=whole)
    broken = Keeper(stop_at=30)
    with pytest.raises(KeyboardInterrupt):
        solve(problem, *targets, progress=broken)
    resumed = Keeper(saved=broken.saved)
    actual = solve(problem, *targets, progress=resumed)
    for left, right in zip(actual, expected, strict=True):
        assert torch.equal(left.images, right.images)
        assert left.losses == right.losses
    assert resumed.reports == [report for report in whole.reports if report[0] > 30]


def test_a_checkpoint_of_other_variables_is_told_and_not_used(generator: torch.Generator) -> None:
    problem = problem_for(generator, steps=20)
    target = target_for(problem, torch.rand(SHAPE, generator=generator))
    (expected,) = solve(problem, target)
    broken = Keeper(stop_at=10)
    with pytest.raises(KeyboardInterrupt):
        solve(problem, target, progress=broken)
    assert broken.saved is not None
    other = {**broken.saved, "values": {"another": torch.zeros(1)}}
    keeper = Keeper(saved=other)
    (actual,) = solve(problem, target, progress=keeper)
    assert torch.equal(actual.images, expected.images)
    assert any("starts anew" in note for note in keeper.notes)


def test_reports_carry_step_phase_and_the_losses_of_every_victim(generator: torch.Generator) -> None:
    keeper = Keeper()
    problem = problem_for(generator, steps=25, phase=lambda share: "early" if share <= 0.5 else "late")
    targets = [target_for(problem, torch.rand(SHAPE, generator=generator)) for _ in range(2)]
    solve(problem, *targets, progress=keeper)
    assert [(step, total, phase) for step, total, phase, _ in keeper.reports] == [
        (10, 25, "early"),
        (20, 25, "late"),
        (25, 25, "late"),
    ]
    for victim in range(2):
        assert keeper.reports[-1][3][victim]["gradient"] < keeper.reports[0][3][victim]["gradient"]
    assert keeper.reports[0][3][0] != keeper.reports[0][3][1]


def test_a_loss_that_is_not_finite_fails_its_victim_and_no_other(generator: torch.Generator) -> None:
    def fragile(parameters: Mapping[str, Tensor], images: Tensor, context: Mapping[str, Tensor]) -> Tensor:
        return simulate(parameters, images, context) * context["scale"]

    problem = problem_for(generator, simulate=fragile, steps=30)
    truth = torch.rand(SHAPE, generator=generator)
    good = target_for(problem, truth, scale=torch.tensor(1.0))
    bad = Target(good.observed, good.start, {"scale": torch.tensor(float("nan"))})
    alone = solve(problem, good)[0]
    failed, other = problem.run([bad, good])
    assert isinstance(failed, Failure)
    assert failed.reason == "the loss 'gradient' became non-finite at step 10; lower the learning rate"
    assert isinstance(other, Outcome)
    assert torch.allclose(other.images, alone.images, atol=1e-6)


def test_a_run_whose_victims_all_failed_stops(generator: torch.Generator) -> None:
    class Broken(ImagePrior):
        def __call__(self, images: Tensor) -> Tensor:
            return images.flatten(1).mean(1) * float("nan")

    keeper = Keeper()
    problem = problem_for(generator, steps=500, priors=[PriorTerm("bad", Constant(1.0), Broken())])
    (failed,) = problem.run([target_for(problem, torch.rand(SHAPE, generator=generator))], keeper)
    assert isinstance(failed, Failure)
    assert [report[0] for report in keeper.reports] == [10]


def test_a_long_attack_says_how_long_it_will_take_and_a_short_one_does_not(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    problem = problem_for(generator, steps=12)
    target = target_for(problem, torch.rand(SHAPE, generator=generator))
    for limit, said in ((1e9, 0), (0.0, 1)):
        monkeypatch.setattr(loop, "_LONG", limit)
        keeper = Keeper()
        solve(problem, target, progress=keeper)
        assert len(keeper.notes) == said
    assert keeper.notes == ["12 steps of one client: about 1 min on this machine"]
