"""How steps are run: directly for a few, as a recorded graph for many, compiled where that pays, replayed on CUDA.

All of them compute the same function; only rounding differs.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from privbench.core import ComputeOptions, Progress
from privbench.inversion.graph import Recorded, compile_recorded, is_compiled, record
from privbench.inversion.plan import SettingsLayout
from privbench.inversion.step import Step
from privbench.inversion.variables import Moving

__all__ = ["CudaReplay", "Stepper", "flat_step", "matmul_precision", "worth_compiling"]

_StepFunction = Callable[..., tuple[Tensor, ...]]
"""Of the tensors of the variables and moments and of a row of settings, to the new tensors and the losses."""

_RECORD_FROM = 60
"""Steps from which recording, which costs as much as some dozens of them, pays."""
_COMPILATION = 0.02
_SAVING = 4.5e-6
"""Seconds per operation of the graph: what compilation takes, and what it saves at every step (docs/research/benchmarks.md)."""


def worth_compiling(operations: int, steps: int, lanes: int) -> bool:
    """Whether compiling is expected to save more time than it takes, from measured averages.

    Nothing that varies from run to run is asked, neither a clock nor the compiler's cache: a case is computed in the same way,
    to the last bit, whenever it is computed.

    Args:
        operations: Of one recorded step.
        steps: Steps with this graph.
        lanes: Candidates (victims x trials) in one step; the more there are, the more an operation that is not run saves.
    """
    return operations * _SAVING * (1 + lanes / 6) * steps > operations * _COMPILATION


@contextmanager
def matmul_precision(compute: ComputeOptions, device: torch.device) -> Iterator[None]:
    """Sets the precision of float32 products and convolutions on CUDA for a block, and puts it back."""
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if compute.precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = compute.precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


class CudaReplay:
    """A step captured as a CUDA graph: a call costs its kernels and nothing else.

    Args:
        function: The step: `(*state, settings)` to the new state and more.
        state: Variables and moments, of the shapes of later calls.
        settings: The step's settings.
    """

    def __init__(self, function: _StepFunction, state: Sequence[Tensor], settings: Tensor) -> None:
        self._inputs = [tensor.clone() for tensor in (*state, settings)]
        stream: Any = cast(Any, torch.cuda).Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries allocate their workspaces at the first calls
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Another device's thread may allocate meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._outputs = function(*self._inputs)

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """One step; what is returned is overwritten by the next call, except where it is passed in again."""
        for place, value in zip(self._inputs, arguments, strict=True):
            if place is not value:
                place.copy_(value)
        self._graph.replay()
        return self._outputs


def flat_step(
    step: Step, moving: Moving, layout: SettingsLayout, data: Sequence[Mapping[str, Tensor]]
) -> tuple[_StepFunction, list[Tensor]]:
    """A step as a function of tensors alone, which recorders and compilers take.

    Args:
        step: The step.
        moving: Variables and moments; their names count, their values do not.
        layout: Where the settings stand in a row.
        data: Observed gradients, context and parameters by name.

    Returns:
        The function of `(*constants, *variables and moments, row)`, and the constants.
    """
    names = [list(group) for group in data]
    constants = [tensor for group in data for tensor in group.values()]

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        rest = iter(tensors[: len(constants)])
        observed, context, parameters = ({name: next(rest) for name in group} for group in names)
        *state, chosen = tensors[len(constants) :]
        following, losses = step(moving.like(state), layout.settings(chosen), observed, context, parameters)
        return *following.tensors, losses

    return flat, constants


class Stepper:
    """Runs the steps of a group, each set of active terms in its own way.

    Args:
        observed: Parameter name to `[victims, *shape]`.
        context: Name to `[victims, ...]`.
        parameters: The matched parameters by name.
        compute: What the user wants.
        progress: Where to say what is done.
        steps: How many steps the whole attack takes with each set of terms, by their names.
    """

    def __init__(
        self,
        observed: Mapping[str, Tensor],
        context: Mapping[str, Tensor],
        parameters: Mapping[str, Tensor],
        compute: ComputeOptions,
        progress: Progress,
        steps: Mapping[tuple[str, ...], int],
    ) -> None:
        self._data = (dict(observed), dict(context), dict(parameters))
        self._compute_options = compute
        self._progress = progress
        self._steps = steps
        self._record = sum(steps.values()) >= _RECORD_FROM or compute.compile == "on"
        self._ways: dict[tuple[str, ...], _StepFunction] = {}

    def __call__(self, step: Step, moving: Moving, layout: SettingsLayout, row: Tensor) -> tuple[Moving, Tensor]:
        """Takes one step.

        Args:
            step: The step for the terms that are active now.
            moving: Variables and moments, `[victims, trials, ...]`.
            layout: Where the settings stand in `row`.
            row: The settings of this step.

        Returns:
            The new variables and moments, and the losses `[victims, terms, trials]`.
        """
        key = tuple(step.names)
        with torch.no_grad():
            if key not in self._ways:
                self._ways[key] = self._way(step, moving, layout, row)
            *tensors, losses = self._ways[key](*moving.tensors, row)
        return moving.like(tensors), losses

    def _way(self, step: Step, moving: Moving, layout: SettingsLayout, row: Tensor) -> _StepFunction:
        if not self._record:
            return self._one_by_one(step, moving, layout)
        function, constants = flat_step(step, moving, layout, self._data)
        try:
            recorded = record(function, constants, [*moving.tensors, row])
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            # Such as a defense's view that decides by the value of a tensor.
            self._progress.note(f"the step is not recorded, and victims are attacked one by one: {_reason(error)}")
            return self._one_by_one(step, moving, layout)
        return self._replayed(self._compiled(step, recorded, moving, row), moving, row)

    def _compiled(self, step: Step, recorded: Recorded, moving: Moving, row: Tensor) -> _StepFunction:
        lanes = math.prod(moving.tensors[0].shape[:2])
        steps = self._steps[tuple(step.names)] * self._compute_options.expected_groups
        wanted = self._compute_options.compile
        if wanted == "off" or (wanted == "auto" and not worth_compiling(recorded.operations, steps, lanes)):
            return recorded
        if not is_compiled(recorded):
            self._progress.note(
                f"compiling the step: {recorded.operations} operations, about {_COMPILATION * recorded.operations:.0f} s "
                "where it was not compiled before"
            )
        try:
            return compile_recorded(recorded, [*moving.tensors, row])
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._progress.note(f"the step runs without compilation, the compiler failed: {_reason(error)}")
            return recorded

    def _one_by_one(self, step: Step, moving: Moving, layout: SettingsLayout) -> _StepFunction:
        """The step itself, without recording; each victim alone."""
        observed, context, parameters = self._data

        def run(*tensors: Tensor) -> tuple[Tensor, ...]:
            *state, row = tensors
            settings = layout.settings(row)
            present = moving.like(state)
            taken = []
            for victim in range(len(state[0])):
                known = _only(observed, victim), _only(context, victim), parameters
                following, losses = step(present.of(victim), settings, *known)
                taken.append((*following.tensors, losses))
            return tuple(torch.cat(parts) for parts in zip(*taken, strict=True))

        return run

    def _replayed(self, function: _StepFunction, moving: Moving, row: Tensor) -> _StepFunction:
        """On CUDA as a graph, where it can be captured."""
        if not row.is_cuda:
            return function
        try:
            with torch.no_grad():
                return CudaReplay(function, moving.tensors, row)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._progress.note(f"the step runs without a CUDA graph, capturing failed: {_reason(error)}")
            return function


def _only(group: Mapping[str, Tensor], victim: int) -> dict[str, Tensor]:
    return {name: value[[victim]] for name, value in group.items()}


def _reason(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "no reason given")[:200]
