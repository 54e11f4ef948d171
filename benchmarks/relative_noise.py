"""One noise on the gradient in two training states: absolute, and relative to the gradient's norm.

    python -m benchmarks.relative_noise --data cifar10 -o benchmarks/relative-noise.csv

The second state is the first with its classifier times three: the same predictions, surer of them, and other gradients. The
closed form of an attacker who knows of the noise is scored on both. A row is an image, a state and a defense.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import click
import torch

from privbench.client import observe
from privbench.core import ATTACKS, ThreatModel, build_defense, resolve_defense
from privbench.data import open_images
from privbench.models import DEFAULT_MODEL, load_victim, resolve_victim
from privbench.scoring import psnr

__all__ = ["STATES", "measure"]

STATES = {"as trained": 1.0, "classifier times 3": 3.0}
"""Name to the factor of the classifier."""


def measure(text: str, state: str, data: str, indices: Sequence[int]) -> list[tuple[float, float]]:
    """Noise over gradient, as norms, and what the closed form gets, in dB, for each image.

    Args:
        text: The defense as on the command line.
        state: One of `STATES`.
        data: Private images.
        indices: Which of them.
    """
    declared = resolve_defense(text)
    defense, none = build_defense(declared), build_defense(resolve_defense("none"))
    spec = resolve_victim(DEFAULT_MODEL, "embedded", defense)
    victim = load_victim(spec, defense, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name in victim.classifier_names():
            victim.get_parameter(name).mul_(STATES[state])
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
        found.append((float((noisy - plain).norm() / plain.norm()), float(psnr(images_found, pixels))))
    return found


@click.command()
@click.option("--data", default="cifar10", show_default=True, help="Private images.")
@click.option("--images", default=16, show_default=True, help="The first N of them.")
@click.option("--absolute", default=1e-3, show_default=True, help="Deviation of the absolute noise.")
@click.option("--relative", default=0.1, show_default=True, help="Of the relative one.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="CSV file.")
def main(data: str, images: int, absolute: float, relative: float, output: Path) -> None:
    """Measure both noises in both states."""
    noises = {
        "absolute": f"gradient-noise:std={absolute:g}",
        "relative": f"gradient-noise:std={relative:g},scale=relative",
    }
    with output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["noise", "defense", "state", "image", "ratio", "psnr"])
        for kind, text in noises.items():
            for state in STATES:
                found = measure(text, state, data, range(images))
                for index, (ratio, decibels) in enumerate(found):
                    writer.writerow([kind, text, state, index, f"{ratio:.5g}", f"{decibels:.3f}"])
                file.flush()
                ratios = [ratio for ratio, _ in found]
                mean = fmean(decibels for _, decibels in found)
                click.echo(f"{text}, {state}: ratio {min(ratios):.3g} to {max(ratios):.3g}, {mean:.1f} dB")


if __name__ == "__main__":
    main()
