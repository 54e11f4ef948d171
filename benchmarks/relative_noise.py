"""One noise on the gradient in several training states: absolute, and relative to the gradient's norm.

    python -m benchmarks.relative_noise --data cifar10 -o benchmarks/relative-noise.csv
    python -m benchmarks.relative_noise --data cifar10 --state random=random --state "1 epoch"=FILE -o FILE

Two states are always there: as trained, and the same with its classifier times three, which predicts the same, is surer of it,
and has other gradients. `--state` adds others. The closed form of an attacker who knows of the noise is scored in all of them.
A row is an image, a state and a defense, with the norm of the image's own gradient.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import click
import torch

from benchmarks.command import Benchmark
from privbench.client import observe
from privbench.core import ATTACKS, ThreatModel, build_defense, resolve_defense
from privbench.data import open_images
from privbench.models import DEFAULT_MODEL, load_victim, resolve_victim
from privbench.scoring import psnr

__all__ = ["STATES", "State", "measure"]


@dataclass(frozen=True)
class State:
    """Weights, and a factor by which their classifier is multiplied."""

    weights: str = "embedded"
    factor: float = 1.0


STATES = {"as trained": State(), "classifier times 3": State(factor=3.0)}


def measure(text: str, state: State, data: str, indices: Sequence[int]) -> list[tuple[float, float, float]]:
    """Norm of the gradient, noise over gradient, as norms, and what the closed form gets, in dB, for each image.

    Args:
        text: The defense as on the command line.
        state: The victim.
        data: Private images.
        indices: Which of them.
    """
    declared = resolve_defense(text)
    defense, none = build_defense(declared), build_defense(resolve_defense("none"))
    spec = resolve_victim(DEFAULT_MODEL, state.weights, defense)
    victim = load_victim(spec, defense, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name in victim.classifier_names():
            victim.get_parameter(name).mul_(state.factor)
    images = open_images(data).for_classes(spec.model.num_classes)
    found = []
    for index in indices:
        pixels, labels = images.load((index,), spec.model.image_size)
        sent = [
            observe(
                victim,
                spec.model,
                one,
                pixels,
                labels,
                declared=declared,
                threat_model=ThreatModel(adversary="aware"),
                generator=torch.Generator().manual_seed(index),
            )[0]
            for one in (none, defense)
        ]
        plain, noisy = (torch.cat([value.flatten() for value in one.update.values()]) for one in sent)
        images_found = ATTACKS.get("closed-form")()(sent[1], generator=torch.Generator().manual_seed(0)).images
        norm = float(plain.norm())
        found.append((norm, float((noisy - plain).norm()) / norm, float(psnr(images_found, pixels))))
    return found


@click.command(cls=Benchmark)
@click.option("--data", default="cifar10", show_default=True, help="Private images.")
@click.option("--first", default=16, show_default=True, help="The first image.")
@click.option("--images", default=16, show_default=True, help="How many.")
@click.option("--state", "others", multiple=True, metavar="NAME=WEIGHTS", help="Another state; repeatable.")
@click.option("--absolute", default=1e-3, show_default=True, help="Deviation of the absolute noise.")
@click.option("--relative", default=0.1, show_default=True, help="Of the relative one.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="CSV file.")
def main(data: str, first: int, images: int, others: Sequence[str], absolute: float, relative: float, output: Path) -> None:
    """Measure both noises in all states."""
    states = STATES | {name: State(weights) for name, _, weights in (text.partition("=") for text in others)}
    noises = {
        "absolute": f"gradient-noise:std={absolute:g}",
        "relative": f"gradient-noise:std={relative:g},scale=relative",
    }
    with output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["noise", "defense", "state", "image", "norm", "ratio", "psnr"])
        for kind, text in noises.items():
            for name, state in states.items():
                found = measure(text, state, data, range(first, first + images))
                for index, (norm, ratio, decibels) in enumerate(found, first):
                    writer.writerow([kind, text, name, index, f"{norm:.5g}", f"{ratio:.5g}", f"{decibels:.3f}"])
                file.flush()
                norms = [norm for norm, _, _ in found]
                mean = fmean(decibels for _, _, decibels in found)
                click.echo(f"{text}, {name}: norm {min(norms):.3g} to {max(norms):.3g}, {mean:.1f} dB")


if __name__ == "__main__":
    main()
