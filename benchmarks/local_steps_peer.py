"""Clients that train, attacked by this suite and by `breaching`'s simulation of local steps (its `fedavg` user).

    python -m benchmarks.local_steps_peer --data cifar10/ --images 2 --steps 300 -o benchmarks/local-steps-peer.csv

The same update, known labels; both matching attacks unroll all local steps and take equally many optimisation steps.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.command import one_line
from benchmarks.local_steps import updates
from benchmarks.peer import attack_with_breaching
from benchmarks.printed import print_table
from privbench.core import ATTACKS, build_defense, resolve_defense
from privbench.models import load_victim, resolve_victim
from privbench.scoring import psnr


def rows(data: str, count: int, steps: int, client: str) -> Iterator[list[str]]:
    """Image, attack, PSNR in dB, processor seconds."""
    defense = build_defense(resolve_defense("none"))
    spec = resolve_victim("vit_mini_patch4_32", "embedded", defense)
    victim = load_victim(spec, defense, generator=torch.Generator().manual_seed(0))
    every = updates(client, data, range(count), "vit_mini_patch4_32", "embedded", labels="known")
    for number, (observation, secret) in enumerate(every):
        ours = {
            "closed-form": ATTACKS.get("closed-form")(),
            "local-steps": ATTACKS.get("local-steps")(point="unrolled", steps=steps),
        }
        for name, attack in ours.items():
            begun = time.process_time()
            found = attack(observation, generator=torch.Generator().manual_seed(0)).images
            yield [str(number), name, f"{float(psnr(found, secret.images)):.1f}", f"{time.process_time() - begun:.0f}"]
        begun = time.process_time()
        overrides = [f"optim.max_iterations={steps}", f"optim.callback={steps}"]
        peer = attack_with_breaching("invertinggradients", victim, observation, overrides=overrides)
        value = float(psnr(peer.images, secret.images))
        yield [str(number), "breaching, invertinggradients", f"{value:.1f}", f"{time.process_time() - begun:.0f}"]


@one_line
def main() -> None:
    """Prints the rows, and writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="Data set, folder or file.")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300, help="Optimisation steps of both matching attacks.")
    parser.add_argument("--client", default="sgd:steps=5,lr=0.01", help="As --local takes it.")
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    header = ["image", "attack", "PSNR", "seconds"]
    print_table(header, rows(given.data, given.images, given.steps, given.client), given.output)


if __name__ == "__main__":
    main()
