"""How steps are run: recorded graphs, oneDNN products, the decision to compile, CUDA graphs by their logic."""

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from privbench.core import ComputeOptions, Progress
from privbench.inversion import (
    Adam,
    Constant,
    Inversion,
    MatchingTerm,
    Pixels,
    PriorTerm,
    SquaredError,
    SquaredNorm,
    Target,
    graph,
    runner,
)
from privbench.inversion.graph import Recorded, compile_recorded, record
from privbench.inversion.plan import SettingsLayout
from privbench.inversion.runner import CudaReplay, Stepper, matmul_precision, worth_compiling
from privbench.inversion.step import Objective, Step
from privbench.inversion.variables import Moving


class Notes(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


def mixed(weight: Tensor, bias: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    slope = torch.func.grad(lambda x: torch.tanh(x @ (weight.exp() @ weight.T) + bias.sin()).square().sum())(x)
    return slope, (x @ weight.exp()).sum()


@pytest.fixture
def arguments(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.randn(128, 128, generator=generator) / 12,
        torch.randn(128, generator=generator),
        torch.randn(96, 128, generator=generator),
    )


def targets(recorded: Recorded) -> list[str]:
    return [str(node.target) for node in recorded.module.graph.nodes if node.op == "call_function"]


def test_a_recorded_function_is_the_function_at_other_values_too(
    arguments: tuple[Tensor, Tensor, Tensor], generator: torch.Generator
) -> None:
    weight, bias, x = arguments
    recorded = record(mixed, [weight, bias], [x])
    other = torch.randn(96, 128, generator=generator)
    for actual, expected in zip(recorded(other), mixed(weight, bias, other), strict=True):
        assert torch.allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_what_depends_on_constants_alone_is_computed_once(arguments: tuple[Tensor, Tensor, Tensor]) -> None:
    weight, bias, x = arguments
    recorded = record(mixed, [weight, bias], [x])
    assert not {"aten.exp.default", "aten.sin.default"} & set(targets(recorded))
    assert any(torch.allclose(value, weight.exp()) for value in recorded.constants)


def test_random_numbers_are_drawn_anew_at_every_call() -> None:
    recorded = record(lambda scale, x: (x + scale * torch.rand(5),), [torch.ones(1)], [torch.zeros(5)])
    assert not torch.equal(recorded(torch.zeros(5))[0], recorded(torch.zeros(5))[0])


@pytest.mark.parametrize("lead", [(), (3,)], ids=["matrix", "stack"])
def test_exchanged_products_are_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator, lead: tuple[int, ...]
) -> None:
    if not cast(Any, torch.backends.mkldnn).is_available():
        pytest.skip("this torch has no oneDNN")
    left, right = torch.randn(*lead, 96, 330, generator=generator), torch.randn(*lead, 330, 128, generator=generator)
    # Strides of a matrix, of its transpose, and neither.
    variants: list[Callable[[Tensor], Tensor]] = [
        lambda x: x,
        lambda x: x.mT.contiguous().mT,
        lambda x: x.repeat_interleave(2, -1)[..., ::2],
    ]
    monkeypatch.setattr(graph, "_slow_products", lambda _: True)
    for variant in variants:
        a, b = variant(left), variant(right)
        recorded = record(lambda a, b: (a @ b,), [], [a, b])
        assert any("privbench.product" in target for target in targets(recorded))
        assert torch.allclose(recorded(a, b)[0], a @ b, rtol=1e-4, atol=1e-4)


def test_an_added_bias_and_small_products_are_kept(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    monkeypatch.setattr(graph, "_slow_products", lambda _: True)
    bias, a, b = (torch.randn(*size, generator=generator) for size in ((128,), (96, 128), (128, 128)))
    recorded = record(lambda bias, a, b: (torch.addmm(bias, a, b), a[:2, :2] @ b[:2, :2]), [], [bias, a, b])
    assert torch.allclose(recorded(bias, a, b)[0], torch.addmm(bias, a, b), rtol=1e-4, atol=1e-4)
    assert sum("privbench.product" in target for target in targets(recorded)) == 1


def test_stacks_of_small_products_stay_in_one_call(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    monkeypatch.setattr(graph, "_slow_products", lambda _: True)
    left, right = torch.randn(3, 96, 130, generator=generator), torch.randn(3, 130, 128, generator=generator)
    assert "aten.bmm.default" in targets(record(lambda a, b: (a @ b,), [], [left, right]))


@pytest.mark.parametrize(
    ("vendor", "family", "expected"),
    [("AuthenticAMD", 26, True), ("AuthenticAMD", 25, False), ("GenuineIntel", 6, False), ("GenuineIntel", 26, False)],
)
def test_products_are_exchanged_on_wide_processors_of_amd_alone(vendor: str, family: int, expected: bool) -> None:
    described = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: 17\n"
    assert graph._is_wide_amd(described) is expected


def test_a_machine_that_does_not_say_its_family_keeps_its_products() -> None:
    assert not graph._is_wide_amd("Processor\t: ARMv8\n")


# The decision to compile


def test_compiling_must_save_more_than_it_costs() -> None:
    assert not worth_compiling(2000, 600, lanes=1)  # half of `quick`, one photo
    assert not worth_compiling(2000, 600, lanes=8)
    assert worth_compiling(2000, 600 * 13, lanes=8)  # a hundred photos
    assert worth_compiling(2000, 2000, lanes=24)  # `standard`, eight photos with three trials
    assert worth_compiling(2000, 60_000, lanes=2)  # `paper`


PIXELS = Pixels(Adam(Constant(0.01), second_moment=0.99))


def _step() -> Step:
    def simulate(parameters: Any, images: Tensor, context: Any) -> Tensor:
        raise AssertionError("no gradient is needed")

    return Step(Objective(simulate, [], [PriorTerm("norm", Constant(1.0), SquaredNorm())], PIXELS), PIXELS.variables)


def _take(compute: ComputeOptions, notes: Progress, planned: int = 500) -> Tensor:
    shape = (1, 1, 1, 3, 2, 2)
    moving = Moving.at_rest({"pixels": torch.full(shape, 0.9)})
    stepper = Stepper({}, {}, {}, compute, notes, {("norm",): planned})
    for _ in range(30):
        moving, _losses = stepper(_step(), moving, SettingsLayout(("pixels",), ("norm",)), torch.tensor([0.01, 0.1, 0.01, 1.0]))
    return moving.values["pixels"]


@pytest.mark.parametrize(
    ("wish", "planned", "compiled"), [("off", 10**6, 0), ("auto", 10**6, 1), ("auto", 500, 0), ("on", 500, 1)]
)
def test_the_user_and_the_estimate_decide(monkeypatch: pytest.MonkeyPatch, wish: Any, planned: int, compiled: int) -> None:
    calls = []

    def pretend(recorded: Recorded, variables: Any) -> Any:
        calls.append(variables)
        return recorded

    monkeypatch.setattr(runner, "compile_recorded", pretend)
    notes = Notes()
    _take(ComputeOptions(compile=wish), notes, planned)
    assert len(calls) == compiled
    assert sum("compiling the step" in line for line in notes.lines) == compiled


def test_a_compiler_that_fails_costs_a_line_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: Any, inputs: Any) -> Any:
        raise ValueError("no working compiler\nand much more")

    monkeypatch.setattr(torch._inductor, "compile", broken)
    monkeypatch.setattr(graph, "_COMPILED", {})
    notes = Notes()
    images = _take(ComputeOptions(compile="on"), notes)
    assert notes.lines[-1] == "the step runs without compilation, the compiler failed: ValueError: no working compiler"
    assert torch.equal(images, _take(ComputeOptions(compile="off"), Notes()))


def test_a_step_that_decides_by_a_value_runs_victim_by_victim() -> None:
    def simulate(parameters: Any, images: Tensor, context: Any) -> Tensor:
        loss: Tensor = (images.flip(-1) if context["flag"] else images).sum() * parameters["w"].sum()
        return loss

    problem = Inversion(simulate, {"w": torch.ones(1)}, [MatchingTerm("g", Constant(1.0), SquaredError())], [], 80, PIXELS)
    found = [Target({"w": torch.ones(1)}, torch.rand(1, 1, 3, 2, 2), {"flag": torch.tensor(value)}) for value in (True, False)]
    notes = Notes()
    together = problem.run(found, notes)
    assert any("one by one" in line for line in notes.lines)
    for target, outcome in zip(found, together, strict=True):
        (alone,) = problem.run([target])
        assert torch.equal(outcome.images, alone.images)  # type: ignore[union-attr]


def test_a_graph_is_compiled_once_for_all_groups(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[Tensor, Tensor, Tensor]
) -> None:
    monkeypatch.setattr(graph, "_COMPILED", {})
    calls = []

    def pretend(module: Any, _: Any) -> Any:
        calls.append(module)
        return module

    monkeypatch.setattr(torch._inductor, "compile", pretend)
    weight, bias, x = arguments
    for constants in ([weight, bias], [weight + 1, bias], [weight[:, :64], bias]):
        recorded = record(mixed, constants, [x])
        assert torch.equal(compile_recorded(recorded, [x])(x)[0], recorded(x)[0])
    assert len(calls) == 2  # other values are the same graph, other shapes are not


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_the_compiler_gives_the_same_numbers(arguments: tuple[Tensor, Tensor, Tensor]) -> None:
    weight, bias, x = arguments
    recorded = record(mixed, [weight, bias], [x])
    compiled = compile_recorded(recorded, [x])
    for actual, expected in zip(compiled(x), mixed(weight, bias, x), strict=True):
        assert torch.allclose(actual, expected, rtol=1e-4, atol=1e-4)


# CUDA, by its logic: no device is needed


class FakeGraph:
    """Replays what was called while it was being captured."""

    current: "FakeGraph | None" = None

    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1


def test_a_cuda_graph_reads_its_inputs_from_the_same_places(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = SimpleNamespace(wait_stream=lambda _: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", lambda _, **__: nullcontext())
    places: list[tuple[Tensor, ...]] = []

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        places.append(tensors)
        return tuple(tensor + 1 for tensor in tensors)

    state = (torch.zeros(2), torch.ones(2), torch.ones(2))
    replay = CudaReplay(function, state, torch.zeros(4))
    assert all(place.data_ptr() != tensor.data_ptr() for place, tensor in zip(places[0], state, strict=False))
    result = replay(torch.full((2,), 7.0), *state[1:], torch.ones(4))
    assert places[-1][0].tolist() == [7.0, 7.0]  # what the captured kernels would read
    assert places[-1][3].tolist() == [1.0] * 4
    assert replay._graph.replays == 1  # type: ignore[attr-defined]
    # What came out goes in again: it must be copied before the replay overwrites it.
    replay(*result[:3], torch.ones(4))
    assert torch.equal(places[-1][0], result[0])


def _precision() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


def test_the_precision_of_products_is_set_on_cuda_only_and_put_back() -> None:
    before = _precision()
    with matmul_precision(ComputeOptions(precision="tf32"), torch.device("cuda")):
        assert _precision() == ("high", True)
    with matmul_precision(ComputeOptions(), torch.device("cuda")):
        assert _precision() == ("highest", False)
    with matmul_precision(ComputeOptions(precision="tf32"), torch.device("cpu")):
        assert _precision() == before
    assert _precision() == before
