"""What speed does to the picture: PSNR against seconds beside breaching, and the engine's ways beside plain double backward.

python -m benchmarks.quality peers        # the same objective, breaching and the engine, PSNR after so many seconds
python -m benchmarks.quality ways         # gradvit `quick` on the four embedded victims, each way of running a step
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import torch
from torch import Tensor, fx

from benchmarks.baseline import run_plain
from benchmarks.command import BenchmarkGroup
from benchmarks.ours import run_ours
from benchmarks.peer import run_breaching
from benchmarks.timing import append_rows
from benchmarks.victims import problems_of
from privbench.core import ComputeOptions, Failure, Progress, generator_for
from privbench.inversion import engine, graph
from privbench.inversion.plain import plain_step
from privbench.inversion.plan import SettingsLayout
from privbench.inversion.step import Step
from privbench.inversion.variables import Moving
from privbench.resolving.options import RunOptions
from privbench.resolving.resolve import resolve_cases
from privbench.runner.context import CaseContext, load_case

__all__ = ["main"]

_VICTIMS = ("none", "mjp", "no-pe", "naive-shuffle")


@click.group(cls=BenchmarkGroup)
def main() -> None:
    """Measure the quality of reconstructions against time, and across ways of computing the same thing."""


def _psnr(images: Tensor, truth: Tensor) -> float:
    return float(-10 * torch.log10((images - truth).square().mean()))


# Beside breaching


@main.command()
@click.option("--steps", "counts", multiple=True, type=int, default=[100, 400, 1600], show_default=True, help="Run lengths.")
@click.option("--photos", type=int, default=4, show_default=True)
@click.option("--threads", type=int, default=2, show_default=True)
@click.option("--learning-rate", type=float, default=0.03, show_default=True)
@click.option("--variation", type=float, default=0.2, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="CSV to append to.")
def peers(
    counts: Sequence[int], photos: int, threads: int, learning_rate: float, variation: float, output: Path | None
) -> None:
    """PSNR after so many steps and the seconds they took, the same objective on both sides."""
    torch.set_num_threads(threads)
    device = torch.device("cpu")
    model, problems = problems_of("vit_mini_patch4_32", 1, photos, device)
    case = resolve_cases(RunOptions(defense="none", labels="known", limit=photos))[0]
    truths = [load_case(case, device).observe(number)[1].images for number in range(photos)]
    settings: dict[str, Any] = {"learning_rate": learning_rate, "variation": variation}
    rows = []
    for steps in counts:
        length = {"steps": steps, **settings}
        runs = {
            "breaching": [run_breaching(model, one.gradients, one.labels, one.start, **length) for one in problems],
            "plain double backward": [run_plain(model, one.gradients, one.labels, one.start, **length) for one in problems],
            "ours, eager": [run_ours(model, [one], compile="off", **length)[0] for one in problems],
            "ours, compiled": [run_ours(model, [one], compile="on", **length)[0] for one in problems],
            f"ours, compiled, group of {photos}": run_ours(model, problems, compile="on", **length),
        }
        for way, found in runs.items():
            share = photos if "group" in way else 1
            rows.append(
                {
                    "way": way,
                    "steps": str(steps),
                    "seconds per photo": f"{statistics.median(run.seconds for run in found) / share:.1f}",
                    "PSNR, mean": f"{statistics.mean(_psnr(r.images, t) for r, t in zip(found, truths, strict=True)):.2f}",
                    "PSNR": " ".join(f"{_psnr(r.images, t):.2f}" for r, t in zip(found, truths, strict=True)),
                }
            )
            click.echo(" | ".join(rows[-1].values()))
    append_rows(output, rows, threads)


# The ways of running a step


@main.command()
@click.option("--photos", type=int, default=4, show_default=True)
@click.option("--defense", "defenses", multiple=True, default=_VICTIMS, show_default=True)
@click.option("--way", "chosen", multiple=True, help="Only these ways.")
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("--steps", type=int, default=1200, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="CSV to append to.")
def ways(photos: int, defenses: Sequence[str], chosen: Sequence[str], threads: int, steps: int, output: Path | None) -> None:
    """PSNR of gradvit `quick` on the embedded victims, each way of running its steps."""
    torch.set_num_threads(threads)
    rows = []
    for defense in defenses:
        options = RunOptions(defense=defense, limit=photos, attack=f"gradvit:steps={steps}")
        prepared = load_case(resolve_cases(options)[0], torch.device("cpu"))
        for way in chosen or _WAYS:
            scores = _attack(prepared, way)
            rows.append(
                {
                    "victim": defense,
                    "way": way,
                    "steps": str(steps),
                    "PSNR, mean": f"{statistics.mean(scores):.2f}",
                    "PSNR": " ".join(f"{score:.2f}" for score in scores),
                }
            )
            click.echo(" | ".join(rows[-1].values()))
    append_rows(output, rows, threads)


def _attack(prepared: CaseContext, way: str) -> list[float]:
    updates = [prepared.observe(batch) for batch in range(prepared.batches)]
    generators = [generator_for(prepared.case, "attack", batch) for batch in range(prepared.batches)]
    observations = [observation for observation, _ in updates]
    compute = ComputeOptions(compile="on" if "compiled" in way else "off")
    with _WAYS[way]():
        if "grouped" in way:
            found = list(prepared.attack.together(observations, generators=generators, compute=compute))
        else:
            pairs = zip(observations, generators, strict=True)
            found = [prepared.attack.together([one], generators=[random], compute=compute)[0] for one, random in pairs]
    return [
        0.0 if isinstance(result, Failure) else _psnr(result.images, secret.images)
        for result, (_, secret) in zip(found, updates, strict=True)
    ]


class _PlainStepper:
    """Stands in for the engine's stepper: autograd's double backward, victim by victim."""

    def __init__(
        self,
        observed: Mapping[str, Tensor],
        context: Mapping[str, Tensor],
        parameters: Mapping[str, Tensor],
        compute: ComputeOptions,
        progress: Progress,
        steps: Mapping[tuple[str, ...], int],
        *,
        moved: float = 0.0,
    ) -> None:
        self.data = observed, context, parameters
        self.moved = moved

    def __call__(self, step: Step, moving: Moving, layout: SettingsLayout, row: Tensor) -> tuple[Moving, Tensor]:
        if self.moved and not any(first.any() for first in moving.first.values()):
            moving = replace(moving, values={name: value + self.moved for name, value in moving.values.items()})
        return plain_step(step, moving, layout.settings(row), *self.data)


def _plain(moved: float = 0.0) -> AbstractContextManager[Any]:
    return patch.object(engine, "Stepper", partial(_PlainStepper, moved=moved))


@contextmanager
def _rounded_products(bits: int) -> Iterator[None]:
    """Products whose factors keep so many bits of mantissa, sums in float32: TF32 has 10, bfloat16 has 7."""
    rounding = patch.object(graph, "_exchange_products", partial(_round_factors, bits=bits))
    with rounding, patch.object(graph, "_slow_products", lambda _: True):
        yield


def _round_factors(recorded: fx.Graph, bits: int) -> None:
    aten = torch.ops.aten
    for node in list(recorded.nodes):
        if node.target in (aten.mm.default, aten.addmm.default, aten.bmm.default):
            factors = node.args[-2:]
            with recorded.inserting_before(node):
                rounded = tuple(recorded.call_function(_rounded, (factor, bits)) for factor in factors)
            for factor in rounded:
                factor.meta["val"] = node.meta["val"]
            node.args = (*node.args[:-2], *rounded)


def _rounded(values: Tensor, bits: int) -> Tensor:
    drop = 23 - bits
    whole = values.contiguous().view(torch.int32)
    nearest = whole + (1 << (drop - 1)) - 1 + ((whole >> drop) & 1)
    return (nearest & ~((1 << drop) - 1)).view(torch.float32)


_WAYS: dict[str, Any] = {
    "plain double backward": _plain,
    "plain, start moved by 1e-7": partial(_plain, 1e-7),
    "eager": nullcontext,
    "compiled": nullcontext,
    "eager, grouped": nullcontext,
    "compiled, grouped": nullcontext,
    "eager, grouped, factors rounded to TF32": partial(_rounded_products, 10),
    "eager, grouped, factors rounded to bfloat16": partial(_rounded_products, 7),
}


if __name__ == "__main__":
    main()
