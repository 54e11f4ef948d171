"""Closed forms on the updates of clients that train, beside those on a single gradient: a table in Markdown.

python -m benchmarks.local_steps --data cifar10/ --images 8 [--attack closed-form,subspace]
"""

import argparse
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Literal

import torch

from benchmarks.command import one_line
from privbench.client import observe
from privbench.core import ATTACKS, LocalTraining, Observation, Secret, ThreatModel, UserError, resolve_defense
from privbench.core.composition import build_defense
from privbench.data import open_images
from privbench.models import load_victim, resolve_victim
from privbench.scoring import psnr

CLIENTS = (
    "none",
    "sgd:steps=1,lr=0.01",
    "sgd:steps=5,lr=0.01",
    "momentum:steps=5,lr=0.01",
    "sgd:steps=20,lr=0.01",
    "sgd:steps=5,lr=0.1",
    "sgd:steps=5,lr=1e-4",
    "adamw:steps=1,lr=1e-3",
    "adamw:steps=5,lr=1e-3",
    "sgd:steps=1,dtype=float16",
    "sgd:steps=1,dtype=bfloat16",
    "sgd:steps=5,lr=0.01,dtype=float16",
)
"""As `--local` takes them."""


def training_of(text: str) -> LocalTraining | None:
    """Reads what `--local` takes."""
    name, _, parameters = text.partition(":")
    if name == "none":
        return None
    return LocalTraining.model_validate({"optimiser": name, **dict(part.split("=") for part in parameters.split(",") if part)})


def updates(
    client: str,
    data: str,
    indices: Sequence[int],
    model: str,
    weights: str,
    labels: Literal["recovered", "known"] = "recovered",
) -> Iterator[tuple[Observation, Secret]]:
    """One update of each image, batch of one, no defense."""
    none = resolve_defense("none")
    defense = build_defense(none)
    spec = resolve_victim(model, weights, defense)
    victim = load_victim(spec, defense, generator=torch.Generator().manual_seed(0))
    images = open_images(data, split="test").for_classes(spec.model.num_classes)
    for index in indices:
        pixels, classes = images.load((index,), spec.model.image_size)
        yield observe(
            victim,
            spec.model,
            defense,
            pixels,
            classes,
            declared=none,
            threat_model=ThreatModel(adversary="aware", labels=labels),
            generator=torch.Generator().manual_seed(index),
            training=training_of(client),
        )


@one_line
def main() -> None:
    """Prints the table, PSNR in dB: mean over the images, and the lowest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="Data set, folder or file.")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--attack", default="closed-form,subspace")
    parser.add_argument("--clients", nargs="*", default=CLIENTS)
    parser.add_argument("--model", default="vit_mini_patch4_32")
    parser.add_argument("--weights", default="embedded")
    given = parser.parse_args()
    attacks = given.attack.split(",")
    print("| client | " + " | ".join(f"{name}: mean (lowest) dB" for name in attacks) + " |")
    print("|---|" + "---|" * len(attacks))
    for client in given.clients:
        cells = []
        for name in attacks:
            values: list[float] = []
            refused = ""
            for observation, secret in updates(client, given.data, range(given.images), given.model, given.weights):
                try:
                    found = ATTACKS.get(name)()(observation, generator=torch.Generator().manual_seed(0))
                except UserError as error:
                    refused = str(error)[:60]
                    break
                values.append(float(psnr(found.images, secret.images)))
            cells.append(refused or f"{fmean(values):.1f} ({min(values):.1f})")
        print(f"| {client} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
