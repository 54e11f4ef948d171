"""Time of a step: plain double backward, breaching, and the engine, taking turns in one process.

python -m benchmarks.speed                      # embedded model, batch 1
python -m benchmarks.speed --model deit_tiny_patch16_224 --model deit_base_patch16_224 --batch-size 1 --batch-size 8
"""

import csv
import os
import resource
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import torch

from benchmarks.baseline import run_plain
from benchmarks.command import Benchmark
from benchmarks.flops import Peak, peak_rate, share_of_peak, step_flops
from benchmarks.ours import WARM_UP, run_ours
from benchmarks.peer import run_breaching
from benchmarks.timing import LEAST_REPETITIONS, Timing, alternate, machine
from benchmarks.victims import problems_of

__all__ = ["main"]

_RATE, _VARIATION = 0.03, 0.2
_COLUMNS = (
    "machine",
    "torch",
    "threads",
    "model",
    "batch",
    "way",
    "group",
    "ms per step",
    "spread",
    "victim-steps per s",
    "times breaching",
    "times plain",
    "peak MiB",
    "share of peak",
)


@click.command(cls=Benchmark)
@click.option(
    "--model", "models", multiple=True, default=["vit_mini_patch4_32"], show_default=True, help="Victims; repeatable."
)
@click.option(
    "--batch-size",
    "batches",
    multiple=True,
    type=click.IntRange(min=1),
    default=[1],
    show_default=True,
    help="Images per gradient.",
)
@click.option(
    "--group", type=click.IntRange(min=1), default=8, show_default=True, help="Victims in one step of the grouped rows."
)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=os.cpu_count(), show_default=True, help="CPU threads.")
@click.option("--repetitions", type=int, default=LEAST_REPETITIONS, show_default=True, help="Rounds.")
@click.option("--steps", type=click.IntRange(min=1), default=40, show_default=True, help="Timed steps of each round.")
@click.option(
    "--warm-up",
    type=click.IntRange(min=1),
    default=WARM_UP,
    show_default=True,
    help="Steps of ours before these, not timed; 10, 20, ...",
)
@click.option("--output", type=click.Path(path_type=Path), help="CSV to write; rows are appended.")
def main(
    models: Sequence[str],
    batches: Sequence[int],
    group: int,
    device: str,
    threads: int,
    repetitions: int,
    steps: int,
    warm_up: int,
    output: Path | None,
) -> None:
    """Measure the time of a step, all competitors on the same victim, image, label, objective and optimiser."""
    torch.set_num_threads(threads)
    place = torch.device(device)
    peak = peak_rate(place)
    click.echo(f"{machine(place)}\npeak: {peak.rate / 1e9:.0f} GFLOP/s ({peak.kernel}, {peak.size} x {peak.size})")
    for model in models:
        for batch in batches:
            rows = _measure(model, batch, group, place, repetitions, (steps, warm_up), peak)
            _show(rows)
            if output is not None:
                _append(output, rows)


def _measure(
    name: str, batch: int, group: int, device: torch.device, repetitions: int, lengths: tuple[int, int], peak: Peak
) -> list[dict[str, str]]:
    steps, warm_up = lengths
    model, problems = problems_of(name, batch, group, device)
    one = problems[0]
    settings = {"steps": steps, "learning_rate": _RATE, "variation": _VARIATION}
    longer = settings | {"steps": warm_up + steps, "warm_up": warm_up}
    memory: dict[str, float] = {}

    def watched(way: str, work: Callable[[], float]) -> Callable[[], float]:
        def measure() -> float:
            with _Memory(device) as used:
                seconds = work()
            memory[way] = max(memory.get(way, 0.0), used.mib)
            return seconds

        return measure

    def ours(compile: str, victims: int) -> Callable[[], float]:  # noqa: A002
        def work() -> float:
            run = run_ours(model, problems[:victims], compile=compile, **longer)[0]  # type: ignore[arg-type]
            return run.seconds / run.steps

        return work

    def plain() -> float:
        return run_plain(model, one.gradients, one.labels, one.start, **settings).seconds / steps  # type: ignore[arg-type]

    def breaching() -> float:
        return run_breaching(model, one.gradients, one.labels, one.start, **settings).seconds / steps  # type: ignore[arg-type]

    ways: dict[str, tuple[int, Callable[[], float]]] = {
        "breaching": (1, breaching),
        "plain double backward": (1, plain),
        "ours, eager": (1, ours("off", 1)),
        "ours, compiled": (1, ours("on", 1)),
        "ours, eager, grouped": (group, ours("off", group)),
        "ours, compiled, grouped": (group, ours("on", group)),
    }
    timings = alternate(
        {way: watched(way, work) for way, (_, work) in ways.items()}, reference="breaching", repetitions=repetitions
    )
    flops = step_flops(model, one.gradients, one.labels, one.start)
    described = machine(device)
    common = {
        "machine": described.device,
        "torch": described.torch,
        "threads": str(described.threads),
        "model": name,
        "batch": str(batch),
    }
    return [
        common | _row(way, victims, timings, memory[way], share_of_peak(flops * victims, timings[way].median, peak))
        for way, (victims, _) in ways.items()
    ]


def _row(way: str, victims: int, timings: dict[str, Timing], mib: float, share: float) -> dict[str, str]:
    timing, plain = timings[way], timings["plain double backward"]
    against_plain = sorted(own / other for own, other in zip(timing.ratios, plain.ratios, strict=True))
    return {
        "way": way,
        "group": str(victims),
        "ms per step": f"{1e3 * timing.median:.2f}",
        "spread": f"{timing.spread:.2f}",
        "victim-steps per s": f"{victims / timing.median:.1f}",
        "times breaching": f"{victims * timing.ratio:.2f}",
        "times plain": f"{victims * against_plain[len(against_plain) // 2]:.2f}",
        "peak MiB": f"{mib:.0f}",
        "share of peak": f"{share:.3f}",
    }


class _Memory:
    """Largest memory in use inside a block: of the device, or resident memory of the process on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.mib = 0.0

    def __enter__(self) -> "_Memory":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return self
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._sample, daemon=True)
        self._watch.start()
        return self

    def _sample(self) -> None:
        statm = Path("/proc/self/statm")
        while True:
            if statm.exists():
                pages = int(statm.read_text(encoding="ascii").split()[1])
                self.mib = max(self.mib, pages * resource.getpagesize() / 2**20)
            if self._stop.wait(0.02):
                return

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.mib = torch.cuda.max_memory_allocated(self.device) / 2**20
            return
        self._stop.set()
        self._watch.join()


def _show(rows: Sequence[dict[str, str]]) -> None:
    shown = [column for column in _COLUMNS if column not in {"machine", "torch"}]
    click.echo("| " + " | ".join(shown) + " |")
    click.echo("|" + "---|" * len(shown))
    for row in rows:
        click.echo("| " + " | ".join(row[column] for column in shown) + " |")


def _append(path: Path, rows: Sequence[dict[str, str]]) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["date", *_COLUMNS], lineterminator="\n")
        if new:
            writer.writeheader()
        date = time.strftime("%Y-%m-%d")
        writer.writerows({"date": date, **row} for row in rows)


if __name__ == "__main__":
    main()
