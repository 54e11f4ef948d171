"""One visit to a GPU: correctness, speed and quality, in order of worth, one JSON file after each part.

python -m benchmarks.gpu --output gpu/                       # eight minutes on one GPU
python -m benchmarks.gpu --device cpu --output gpu/ --short  # the same code on the CPU, small

A part that fails is written with its error and does not keep the next one from running, so that a visit that is cut off
loses nothing.
"""

import dataclasses
import json
import statistics
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import torch
from torch import Tensor

from benchmarks.baseline import run_plain
from benchmarks.command import Benchmark
from benchmarks.flops import peak_rate, step_flops
from benchmarks.ours import WARM_UP, run_ours
from benchmarks.timing import machine
from benchmarks.victims import problems_of
from privbench.core import ComputeOptions, Failure, Progress, generator_for
from privbench.resolving.options import RunOptions
from privbench.resolving.resolve import resolve_cases
from privbench.runner.context import load_case
from privbench.runner.suites import Suites
from privbench.scoring import score_batch

__all__ = ["Plan", "main", "run_parts"]


_MODELS: Mapping[str, Sequence[int]] = {
    "vit_mini_patch4_32": (1, 8),
    "deit_tiny_patch16_224": (1, 8),
    "deit_small_patch16_224": (1, 8),
    "deit_base_patch16_224": (1,),
}


@dataclass(frozen=True)
class Plan:
    """What a visit measures.

    Attributes:
        device: Where.
        weights: Weights of DeiT-Tiny for the quality at 224 pixels; None leaves that part out.
        data: Folder of photos at 224 pixels.
        models: Victims of the speed part, each with its batch sizes.
        groups: Victims in one step.
        steps: Timed steps of a run.
        photos: Photos of the quality part.
        budget: Seconds after which no new part or row begins.
    """

    device: torch.device
    weights: Path | None = None
    data: Path | None = None
    models: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=lambda: dict(_MODELS))
    groups: Sequence[int] = (1, 64)
    steps: int = 60
    photos: int = 16
    budget: float = 480.0


_SETTINGS: dict[str, Any] = {"learning_rate": 0.03, "variation": 0.2}


def run_parts(plan: Plan, output: Path) -> dict[str, Any]:
    """Runs all parts; each writes `NAME.json` below `output` as soon as it is done, rows of it as they come.

    Returns:
        What was written, by part.
    """
    output.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    described = dataclasses.asdict(machine(plan.device))
    done: dict[str, Any] = {}
    for name, part in _PARTS.items():
        rows: list[dict[str, Any]] = []

        def add(row: dict[str, Any], name: str = name, rows: list[dict[str, Any]] = rows) -> None:
            rows.append(row)
            done[name] = {"machine": described, "seconds": round(time.monotonic() - began, 1), "rows": rows}
            (output / f"{name}.json").write_text(json.dumps(done[name], indent=1) + "\n", encoding="utf-8")
            click.echo(f"{name}: {json.dumps(row)}")

        def left() -> float:
            return plan.budget - (time.monotonic() - began)

        if left() <= 0:
            add({"left out": "the budget is spent"})
            continue
        try:
            part(plan, add, left)
        except Exception as error:  # the next part is worth as much
            add({"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc(limit=4)})
    return done


_Add = Callable[[dict[str, Any]], None]


def _correctness(plan: Plan, add: _Add, _: Callable[[], float]) -> None:
    """The same 20 steps on the CPU and on the device, one victim and two, directly and compiled."""
    steps = WARM_UP + 1
    cpu = torch.device("cpu")
    model, problems = problems_of("vit_mini_patch4_32", 1, 2, cpu)
    reference = run_ours(model, problems, steps=steps, compile="off", **_SETTINGS)
    placed, there = problems_of("vit_mini_patch4_32", 1, 2, plan.device)
    for mode in ("off", "on"):
        runs = run_ours(placed, there, steps=steps, compile=mode, **_SETTINGS)
        add({"victims": 2, "compile": mode, "steps": steps, "largest difference": _difference(runs, reference)})
    single = run_ours(placed, there[:1], steps=steps, compile="off", **_SETTINGS)
    add({"victims": 1, "compile": "off", "steps": steps, "largest difference": _difference(single, reference[:1])})
    one = there[0]
    plain = run_plain(placed, one.gradients, one.labels, one.start, steps=steps, **_SETTINGS)
    add({"victims": 1, "compile": "plain", "steps": steps, "largest difference": _difference([plain], reference[:1])})


def _difference(found: Sequence[Any], expected: Sequence[Any]) -> float:
    return max(float((one.images.cpu() - other.images.cpu()).abs().max()) for one, other in zip(found, expected, strict=True))


def _speed(plan: Plan, add: _Add, left: Callable[[], float]) -> None:
    """Time of a step, ours beside plain double backward, and the share of the peak of float32 and TF32 products."""
    peaks = _peaks(plan.device)
    add({name: f"{rate / 1e12:.1f} TFLOP/s" for name, rate in peaks.items()})
    for name, batches in plan.models.items():
        for batch in batches:
            if left() < 20:
                add({"model": name, "batch": batch, "left out": "the budget is spent"})
                continue
            model, problems = problems_of(name, batch, max(plan.groups), plan.device)
            one = problems[0]
            flops = step_flops(model, one.gradients, one.labels, one.start)
            plain = run_plain(model, one.gradients, one.labels, one.start, steps=WARM_UP, **_SETTINGS)
            plain = run_plain(model, one.gradients, one.labels, one.start, steps=plan.steps, **_SETTINGS)
            base = plain.seconds / plan.steps
            add(_row(name, batch, 1, "plain double backward", base, base, flops, peaks))
            for group in plan.groups:
                for mode in ("off", "on"):
                    way = f"ours, {'compiled' if mode == 'on' else 'eager'}"
                    if left() < 20:
                        add({"model": name, "batch": batch, "victims": group, "way": way, "left out": "the budget is spent"})
                        continue
                    try:
                        run = run_ours(
                            model,
                            problems[:group],
                            steps=plan.steps + WARM_UP,
                            compile=mode,
                            **_SETTINGS,
                        )[0]
                    except (torch.OutOfMemoryError, RuntimeError) as error:
                        add({"model": name, "batch": batch, "victims": group, "way": way, "error": str(error)[:200]})
                        _empty(plan.device)
                        continue
                    add(_row(name, batch, group, way, run.seconds / run.steps, base, flops, peaks))
            _empty(plan.device)


def _row(
    name: str, batch: int, group: int, way: str, seconds: float, base: float, flops: float, peaks: Mapping[str, float]
) -> dict[str, Any]:
    rate = flops * group / seconds
    return {
        "model": name,
        "batch": batch,
        "victims": group,
        "way": way,
        "ms per step": round(1e3 * seconds, 3),
        "victim-steps per s": round(group / seconds, 1),
        "times plain": round(group * base / seconds, 2),
        **{f"share of {peak}": round(rate / value, 4) for peak, value in peaks.items()},
    }


def _peaks(device: torch.device) -> dict[str, float]:
    before = torch.get_float32_matmul_precision()
    peaks = {}
    for name, precision in (("float32 peak", "highest"), ("TF32 peak", "high")):
        torch.set_float32_matmul_precision(precision)
        peaks[name] = peak_rate(device).rate
    torch.set_float32_matmul_precision(before)
    return peaks


def _empty(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


class _Watch(Progress):
    """Keeps what the attack shows on the way, with the time."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.shown: list[tuple[float, int, tuple[Tensor, ...]]] = []

    def picture(self, step: int, *images: Tensor) -> None:
        self.shown.append((time.perf_counter() - self.began, step, tuple(image.detach().cpu() for image in images)))


def _quality(plan: Plan, add: _Add, left: Callable[[], float]) -> None:
    """PSNR and LPIPS against seconds: photos at 224 pixels, attacked in one group by the default attack."""
    if plan.weights is None or plan.data is None:
        add({"left out": "no weights or no photos were given"})
        return
    plain: tuple[str, Literal["unaware"]] = ("none", "unaware")
    hidden: tuple[str, Literal["aware"]] = ("mjp", "aware")
    for defense, adversary in (plain, hidden):
        if left() < 30:
            add({"defense": defense, "left out": "the budget is spent"})
            continue
        options = RunOptions(
            defense=defense,
            adversary=adversary,
            model="deit_tiny_patch16_224",
            weights=str(plan.weights),
            data=str(plan.data),
            limit=plan.photos,
        )
        (case,) = resolve_cases(options)
        prepared = load_case(case, plan.device)
        updates = [prepared.observe(batch) for batch in range(prepared.batches)]
        suite = Suites().suite(prepared)
        watch = _Watch()
        results = prepared.attack.together(
            [observation for observation, _ in updates],
            generators=[generator_for(case, "attack", batch) for batch in range(prepared.batches)],
            progress=watch,
            compute=ComputeOptions(),
        )
        seconds = time.perf_counter() - watch.began
        final = [None if isinstance(result, Failure) else result.images.cpu() for result in results]
        curve = [*watch.shown[:: max(1, len(watch.shown) // 6)], (seconds, -1, tuple(final))]
        for at, step, images in curve:
            scores = [
                score_batch(image, secret.images, suite)[0].scores
                for (_, secret), image in zip(updates, images, strict=True)
                if image is not None
            ]
            means = {name: round(statistics.mean(score[name] for score in scores), 4) for name in ("psnr", "ssim", "lpips")}
            add(
                {
                    "attack": case.attack.name,
                    "defense": defense,
                    "adversary": adversary,
                    "photos": len(scores),
                    "seconds": round(at, 2),
                    "step": "end" if step < 0 else step,
                    **means,
                }
            )


_PARTS: Mapping[str, Callable[[Plan, _Add, Callable[[], float]], None]] = {
    "correctness": _correctness,
    "speed": _speed,
    "quality": _quality,
}


@click.command(cls=Benchmark)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of the JSON files.")
@click.option("--weights", type=click.Path(path_type=Path), help="Weights of DeiT-Tiny.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of photos.")
@click.option("--photos", default=16, show_default=True, help="Photos of the quality part.")
@click.option("--budget", default=480.0, show_default=True, help="Seconds.")
@click.option("--short", is_flag=True, help="The embedded model and few steps: does the code run?")
def main(device: str, output: Path, weights: Path | None, data: Path | None, photos: int, budget: float, short: bool) -> None:
    """Measure correctness, speed and quality on one device."""
    plan = Plan(torch.device(device), weights, data, photos=photos, budget=budget)
    if short:
        plan = dataclasses.replace(plan, models={"vit_mini_patch4_32": (1,)}, groups=(1, 2), steps=20)
    run_parts(plan, output)


if __name__ == "__main__":
    main()
