"""Ways of running one step: double backward, as it stands, recorded (ours), recorded and compiled, torch's own compiler on all.

python -m benchmarks.compilers --group 1 --group 8
python -m benchmarks.compilers --model deit_tiny_patch16_224 --group 1 --only "double backward" --only recorded
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click
import torch
from torch import Tensor

from benchmarks.command import Benchmark
from benchmarks.ours import plain_inversion
from benchmarks.timing import LEAST_REPETITIONS, Timing, alternate, append_rows
from benchmarks.victims import problems_of
from privbench.core import ComputeOptions, Progress, UserError
from privbench.inversion import Target
from privbench.inversion.graph import compile_recorded, record
from privbench.inversion.loop import OptimisationLoop
from privbench.inversion.plain import plain_step
from privbench.inversion.runner import flat_step

__all__ = ["main", "ways_of"]

_Way = Callable[[], Sequence[Tensor]]
_RATE, _VARIATION = 0.03, 0.2
_REFERENCE = "double backward"


@click.command(cls=Benchmark)
@click.option("--model", default="vit_mini_patch4_32", show_default=True, help="Victim.")
@click.option("--group", "groups", multiple=True, type=int, default=[1, 8], show_default=True, help="Victims in a step.")
@click.option("--steps", type=int, default=5, show_default=True, help="Timed steps of each round.")
@click.option("--repetitions", type=int, default=LEAST_REPETITIONS, show_default=True, help="Rounds.")
@click.option("--threads", type=int, default=1, show_default=True, help="CPU threads.")
@click.option("--only", multiple=True, help="Only these ways, beside double backward.")
@click.option("--output", type=click.Path(path_type=Path), help="CSV to write; rows are appended.")
def main(
    model: str, groups: Sequence[int], steps: int, repetitions: int, threads: int, only: Sequence[str], output: Path | None
) -> None:
    """Measure set-up and step of each way, in seconds of the process's own time, in turns."""
    torch.set_num_threads(threads)
    rows = [row for group in groups for row in _measure(model, group, steps, repetitions, only)]
    for row in rows:
        click.echo("  ".join(f"{name} {value}" for name, value in row.items()))
    append_rows(output, rows, threads)


def ways_of(model: str, group: int) -> dict[str, Callable[[], _Way]]:
    """What makes each way ready, by name; what it gives takes one step of the whole group.

    Args:
        model: An embedded model, or a timm model with random weights.
        group: Victims in the step.
    """
    victim, problems = problems_of(model, 1, group, torch.device("cpu"))
    inversion = plain_inversion(victim, steps=60, learning_rate=_RATE, variation=_VARIATION)
    targets = [Target(one.gradients, one.start[None], {"labels": one.labels}) for one in problems]
    loop = OptimisationLoop(inversion, targets, Progress(), ComputeOptions())
    layout, row = loop.plan.at(0)
    moving = loop.state.moving
    function, constants = flat_step(
        inversion.active(0), moving, layout, [loop.observed, loop.context, dict(inversion.parameters)]
    )
    variables = [*moving.tensors, row]

    def double_backward() -> _Way:
        def take() -> Sequence[Tensor]:
            known = loop.observed, loop.context, dict(inversion.parameters)
            following, losses = plain_step(inversion.active(0), moving, layout.settings(row), *known)
            return *following.tensors, losses

        return take

    def recorded() -> _Way:
        graph = record(function, constants, variables)
        return lambda: graph(*variables)

    def recorded_compiled() -> _Way:
        compiled = compile_recorded(record(function, constants, variables), variables)
        return lambda: compiled(*variables)

    def by_torch(backend: str) -> _Way:
        torch._dynamo.reset()
        compiled = torch.compile(function, fullgraph=True, dynamic=False, backend=backend)
        return lambda: compiled(*constants, *variables)

    return {
        _REFERENCE: double_backward,
        "as it stands": lambda: lambda: function(*constants, *variables),
        "recorded": recorded,
        "recorded, compiled": recorded_compiled,
        "torch.compile(fullgraph=True)": partial(by_torch, "inductor"),
        "the same, aot_eager": partial(by_torch, "aot_eager"),
    }


def _measure(model: str, group: int, steps: int, repetitions: int, only: Sequence[str]) -> list[dict[str, str]]:
    ready: dict[str, _Way] = {}
    set_up: dict[str, float] = {}
    preparations = ways_of(model, group)
    for name in only:
        if name not in preparations:
            raise UserError(f"unknown way {name!r}; choose one of {', '.join(preparations)}")
    if only:
        preparations = {name: one for name, one in preparations.items() if name in {_REFERENCE, *only}}
    with torch.no_grad():
        for name, prepare in preparations.items():
            began = time.process_time()
            way = prepare()
            way()
            set_up[name], ready[name] = time.process_time() - began, way

        def measured(way: _Way) -> Callable[[], float]:
            def seconds() -> float:
                began = time.process_time()
                for _ in range(steps):
                    way()
                return (time.process_time() - began) / steps

            return seconds

        timings = alternate({name: measured(way) for name, way in ready.items()}, reference=_REFERENCE, repetitions=repetitions)
    return [_row(model, group, set_up[name], timing) for name, timing in timings.items()]


def _row(model: str, group: int, set_up: float, timing: Timing) -> dict[str, str]:
    return {
        "model": model,
        "group": str(group),
        "way": timing.name,
        "set-up s": f"{set_up:.1f}",
        "ms per step": f"{1e3 * timing.median:.1f}",
        "times double backward": f"{timing.ratio:.2f}",
        "spread": f"{timing.spread:.2f}",
    }


if __name__ == "__main__":
    main()
