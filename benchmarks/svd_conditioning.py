"""Orthogonal SVD conditioning in its own setting, small: two meta-layers, five ways to train, several seeds.

    python -m benchmarks.svd_conditioning --data cifar10 -o benchmarks/svd-conditioning.csv [--keep FOLDER]

A row is a network, a way and a seed: test accuracy, and the condition number of the meta-layer's covariance after each epoch.
The ways act on the layer in front of the meta-layer alone, as published: `plain`; `orthogonal-weight`, the weight replaced by
the nearest orthogonal one after every step; `nog`, its gradient replaced by the nearest orthogonal one; `olr`, its learning
rate the optimal one where that is smaller; `nog+olr`. SGD with momentum, flips and shifts, a cosine. Rows of seeds that are in
the file already stay, and further ones are added. At the end the accuracies' means stand with their intervals over seeds.
"""

import csv
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, cast

import click
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.command import Benchmark
from benchmarks.printed import rows_there
from privbench.data import open_images
from privbench.defenses.nog import nearest_orthogonal, optimal_learning_rate
from privbench.models.svd_cnn import SvdCnn
from privbench.models.svd_layers import condition_number
from privbench.models.zoo import CIFAR_MEAN, CIFAR_STD
from privbench.scoring import student_interval

__all__ = ["WAYS", "train"]

WAYS = ("plain", "orthogonal-weight", "nog", "olr", "nog+olr")
"""How the layer in front of the meta-layer is trained."""
MetaName = Literal["decorrelated", "covariance"]
_METAS: tuple[MetaName, ...] = ("decorrelated", "covariance")
_BATCH = 128
_RATE = 0.1
_SHIFT = 4


def _normalised(images: Tensor) -> Tensor:
    return (images.float() / 255 - torch.tensor(CIFAR_MEAN).view(3, 1, 1)) / torch.tensor(CIFAR_STD).view(3, 1, 1)


def _augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flipped and shifted, the whole batch alike: a tenth of the time of each image by itself."""
    if torch.rand((), generator=generator) < 0.5:
        images = images.flip(-1)
    moves = torch.randint(-_SHIFT, _SHIFT + 1, (2,), generator=generator).tolist()
    return images.roll(moves, dims=(-2, -1))


def _step(weight: Tensor, way: str, scheduled: float) -> float:
    """Changes the gradient of the conditioned weight as its way says; its learning rate for this step."""
    gradient = cast(Tensor, weight.grad)
    if "nog" in way:
        gradient.copy_(nearest_orthogonal(gradient))
    return optimal_learning_rate(weight, gradient, scheduled) if "olr" in way else scheduled


def train(
    meta: MetaName,
    way: str,
    seed: int,
    training: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    epochs: int,
) -> tuple[float, list[float], SvdCnn]:
    """Test accuracy, the mean condition number of the covariance in each epoch, and the network.

    Args:
        meta: Which meta-layer.
        way: One of `WAYS`.
        seed: Of weights, order and augmentation.
        training: Images `[n, 3, 32, 32]` uint8 and labels.
        test: The same.
        epochs: Passes over the training images.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = SvdCnn(10, meta)
    weight = network.pre_svd.weight
    rest = [parameter for parameter in network.parameters() if parameter is not weight]
    groups: list[dict[str, Any]] = [{"params": rest}, {"params": [weight]}]
    optimiser = torch.optim.SGD(groups, lr=_RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    images, labels = training
    batches = len(images) // _BATCH
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * batches)
    seen: list[float] = []
    hook = network.meta_layer.register_forward_pre_hook(
        lambda layer, given: seen.append(condition_number(layer.matrices(given[0])))
    )
    conditions = []
    for _ in range(epochs):
        seen.clear()
        order = torch.randperm(len(images), generator=generator)
        for number in range(batches):
            chosen = order[number * _BATCH : (number + 1) * _BATCH]
            loss = nn.functional.cross_entropy(network(_augmented(_normalised(images[chosen]), generator)), labels[chosen])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            scheduled = optimiser.param_groups[0]["lr"]
            optimiser.param_groups[1]["lr"] = _step(weight, way, scheduled)
            optimiser.step()
            optimiser.param_groups[1]["lr"] = scheduled
            if way == "orthogonal-weight":
                with torch.no_grad():
                    weight.copy_(nearest_orthogonal(weight))
            schedule.step()
        conditions.append(fmean(seen))
    hook.remove()
    network.eval()
    with torch.no_grad():
        predicted = torch.cat([network(_normalised(part)).argmax(1) for part in torch.split(test[0], 500)])
    return float((predicted == test[1]).double().mean()), conditions, network


def _summary(rows: Sequence[Sequence[str]]) -> None:
    """Prints what the seeds say together: accuracy, and the condition number in the last epoch."""
    for meta in _METAS:
        for way in WAYS:
            chosen = [row for row in rows if row[:2] == [f"cnn_{meta}_32", way]]
            found = student_interval([float(row[4]) for row in chosen])
            last = ", ".join(row[-1] for row in chosen)
            click.echo(f"{meta} {way}: {found.mean:.1%} [{found.low:.1%}, {found.high:.1%}], {found.n} seeds, condition {last}")


@click.command(cls=Benchmark)
@click.option("--data", default="cifar10", show_default=True, help="A data set with training and test images.")
@click.option("--images", default=2000, show_default=True, help="The first N training images.")
@click.option("--test-images", default=2000, show_default=True, help="The first N test images.")
@click.option("--epochs", default=4, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Folder for the networks' weights.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="CSV file.")
def main(data: str, images: int, test_images: int, epochs: int, seeds: int, keep: Path | None, output: Path) -> None:
    """Train every network in every way with every seed, and write a row for each as it is done."""
    names = ("network", "way", "seed", "images", "accuracy", "seconds")
    header = [*names, *(f"condition_{number + 1}" for number in range(epochs))]
    rows = rows_there(output, header)
    sets = [open_images(data, split).as_tensors(32, most) for split, most in (("train", images), ("test", test_images))]
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    with output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([header, *rows])
        for seed, meta, way in product(range(seeds), _METAS, WAYS):
            case = [f"cnn_{meta}_32", way, str(seed), str(images)]
            if any(row[:4] == case for row in rows):
                continue
            started = time.perf_counter()
            accuracy, conditions, network = train(meta, way, seed, sets[0], sets[1], epochs)
            seconds = time.perf_counter() - started
            values = [f"{value:.5g}" for value in conditions]
            rows.append([*case, f"{accuracy:.4f}", f"{seconds:.0f}", *values])
            writer.writerow(rows[-1])
            file.flush()
            if keep is not None:
                save_file(network.state_dict(), keep / f"cnn_{meta}_32.{way}.seed{seed}.safetensors")
            click.echo(f"{meta} {way} seed {seed}: {accuracy:.1%}, condition {', '.join(values)}, {seconds:.0f} s")
    _summary([row for row in rows if row[3] == str(images)])


if __name__ == "__main__":
    main()
