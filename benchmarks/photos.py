"""Photos of 224 pixels, equal time on both sides: our matching attacks and `breaching` on the same gradient.

    python -m benchmarks.photos --model deit_tiny_patch16_224 --weights FILE --data imagenet-val --indices 7,17 --seconds 60

`breaching` runs `invertinggradients` as its users do, ours are `inverting-gradients`, the same method, and `adjoint-matching`,
the default, both by `quick`. Each has as many steps as the time allows by a short run before; seconds are of the processor.
`breaching`'s `april_analytic` needs a first block without LayerNorm and residual, which no pretrained model has, and there is
no other attack of APRIL in it.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
import torch
from torch import Tensor

from benchmarks.attacks import Update, measured, updates
from benchmarks.command import Benchmark
from benchmarks.peer import attack_with_breaching
from benchmarks.printed import print_table
from privbench.core import ATTACKS, Attack
from privbench.scoring.suite import MetricSuite, metric_suite

__all__ = ["main", "rows", "steps_within"]

_TOLD_APART = 0.1
"""Share of the allowed time by which a longer run must differ from a run of one step before the time of a step is read off."""


def steps_within(seconds: float, attack: Callable[[int], object]) -> int:
    """How many steps of an attack take so many processor seconds, its set-up included; one at least.

    Args:
        seconds: Allowed time.
        attack: Runs it with so many steps.
    """
    steps, short = 4, _processor_seconds(attack, 1)
    while (long := _processor_seconds(attack, steps)) < short + _TOLD_APART * seconds:
        if long > seconds / 2:  # nearly all of it is set-up
            return steps if long <= seconds else 1
        steps *= 4
    return max(1, 1 + int((seconds - short) * (steps - 1) / (long - short)))


def _processor_seconds(attack: Callable[[int], object], steps: int) -> float:
    begun = time.process_time()
    attack(steps)
    return time.process_time() - begun


def _breaching(client: Update, steps: int) -> Tensor:
    overrides = [f"optim.max_iterations={steps}", f"optim.callback={steps}"]
    return attack_with_breaching(
        "invertinggradients", client.victim, client.observation, overrides=overrides, seed=client.seed
    ).images


def _ours(name: str, client: Update, steps: int) -> Tensor:
    component: type[Attack] = ATTACKS.get(name)
    attack = component.from_preset("quick", {"steps": steps})
    return attack(client.observation, generator=client.generator()).images


def rows(clients: list[Update], seconds: float, suite: MetricSuite) -> Iterator[list[str]]:
    """Photo, attack, steps, processor seconds, PSNR in dB, LPIPS."""
    for number, client in enumerate(clients):
        sides: dict[str, Callable[[int], Tensor]] = {
            "breaching, invertinggradients": partial(_breaching, client),
            "inverting-gradients": partial(_ours, "inverting-gradients", client),
            "adjoint-matching": partial(_ours, "adjoint-matching", client),
        }
        for name, attack in sides.items():
            steps = steps_within(seconds, attack)
            yield [str(number), name, str(steps), *measured(partial(attack, steps), client, suite)]


@click.command(cls=Benchmark)
@click.option("--model", required=True, help="Registered or timm name.")
@click.option("--weights", required=True, help="File, or random.")
@click.option("--data", required=True, help="Data set, folder or file.")
@click.option("--indices", required=True, help="Of the photos, as run takes them.")
@click.option("--seconds", type=click.FloatRange(min=1), default=60, show_default=True, help="Of the processor, for each.")
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="CSV.")
def main(model: str, weights: str, data: str, indices: str, seconds: float, threads: int, output: Path | None) -> None:
    """PSNR and LPIPS photo by photo, equal time on both sides."""
    torch.set_num_threads(threads)
    clients = updates(model=model, weights=weights, data=data, indices=indices)
    header = ["photo", "attack", "steps", "seconds", "PSNR", "LPIPS"]
    print(" | ".join(header))
    print_table(header, rows(clients, seconds, metric_suite(patch_size=None)), output)


if __name__ == "__main__":
    main()
