"""How well reassembly orders shuffled patches: the table of "Reassembly" in attacks/README.md.

Run `python -m benchmarks.reassembly clients` or `comparison` (measures and solvers), with `--data` before it for what
`privbench run --data` takes. The true 4x4 patches of images 0 to 7 are shuffled (`naive-shuffle`), or a block-wise masked
part of them (`mjp` at four ratios), and put back.
"""

import time
from collections.abc import Callable, Sequence
from statistics import fmean

import click
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from benchmarks.command import BenchmarkGroup
from privbench.core.patches import rearrange, to_patches
from privbench.data import open_images
from privbench.defenses.block_mask import block_mask
from privbench.jigsaw import reassemble
from privbench.jigsaw.borders import Measure, gaussian_ratio, mahalanobis_gradient, neighbour_evidence

GRID = (8, 8)
SIZE = 4
EXACT = 60.0
"""PSNR in decibels from which an image counts as exact: patches that change places look the same."""
HEAD = "client or method | order accuracy | neighbour accuracy | exact | PSNR shuffled | PSNR reassembled | seconds"
Floats = NDArray[np.float64]
Solver = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""From patches, movable places and a source of draws to the order."""


def neighbour_accuracy(places: Tensor) -> float:
    """Share of borders whose two patches are neighbours in the original; `places` are the patches' true places."""
    table = places.reshape(GRID)
    beside = (table[:, 1:] == table[:, :-1] + 1) & (table[:, :-1] % GRID[1] != GRID[1] - 1)
    below = table[1:] == table[:-1] + GRID[1]
    return float(torch.cat([beside.flatten(), below.flatten()]).double().mean())


def shuffled(ratio: float | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The order of the client and which places it moved."""
    masked = torch.ones(64, dtype=torch.bool)
    if ratio is not None:
        masked = block_mask(*GRID, ratio, generator, area=(8, 75))
    order, chosen = torch.arange(64), masked.nonzero().flatten()
    order[chosen] = chosen[torch.randperm(len(chosen), generator=generator)]
    return order, masked


@click.group(cls=BenchmarkGroup)
@click.option("--data", default="photos", show_default=True, help="As in `privbench run --data`.")
@click.pass_context
def main(context: click.Context, data: str) -> None:
    """Measures reassembly."""
    torch.set_num_threads(1)
    context.obj = open_images(data).load(list(range(8)), 32)[0]


def measure(name: str, images: Tensor, ratio: float | None, solve: Solver) -> None:
    """Prints the means over all images, and the order accuracy of each."""
    rows = []
    for number, image in enumerate(images[:, None]):
        generator = torch.Generator().manual_seed(5 + number)
        order, masked = shuffled(ratio, generator)
        fed = rearrange(image, order, SIZE)
        began = time.perf_counter()
        found = solve(to_patches(fed, SIZE)[0], masked, generator)
        seconds = time.perf_counter() - began
        places = order[found]
        right = places == torch.arange(64)
        accuracy = float(right[masked].double().mean()) if masked.any() else 1.0
        before, after = (decibels(guess, image) for guess in (fed, rearrange(fed, found, SIZE)))
        rows.append((accuracy, neighbour_accuracy(places), float(after >= EXACT), before, after, seconds))
    print(name, *(f"{fmean(column):.3f}" for column in zip(*rows, strict=True)), sep=" | ")
    print("  order accuracy of each:", *(f"{row[0]:.2f}" for row in rows), flush=True)


def genetic(measures: Sequence[Measure] | None = None, generations: int = 30) -> Solver:
    """The component, or parts of it."""

    def solve(patches: Tensor, movable: Tensor, generator: torch.Generator) -> Tensor:
        found = reassemble(patches, GRID, movable=movable, generator=generator, measures=measures, generations=generations)
        return found.order

    return solve


@main.command()
@click.pass_obj
def clients(images: Tensor) -> None:
    """Naive shuffle, and MJP at several mask ratios."""
    print(HEAD)
    for ratio in (None, 0.1, 0.27, 0.5, 0.9):
        measure("naive-shuffle" if ratio is None else f"mjp {ratio}", images, ratio, genetic())


@main.command()
@click.pass_obj
def comparison(images: Tensor) -> None:
    """Measures under the same search, and solvers under the same measures, on shuffled images."""
    print(HEAD)
    solvers: dict[str, Solver] = {
        "squared difference": genetic([squared_difference]),
        "prediction": genetic([prediction]),
        "Mahalanobis": genetic([mahalanobis_gradient]),
        "Gaussian ratio": genetic([gaussian_ratio]),
        "both, checkerboard assignment": checkerboard,
        "both, FAQ": faq,
        "both, greedy": genetic(generations=0),
        "both, genetic": genetic(),
    }
    for name, solve in solvers.items():
        measure(name, images, None, solve)


def squared_difference(patches: Floats) -> Floats:
    """Squared differences of the pixels on both sides of the border."""
    last, first = (patches[..., side].reshape(len(patches), -1) for side in (-1, 0))
    return np.asarray(((last[:, None] - first) ** 2).sum(axis=-1))


def prediction(patches: Floats) -> Floats:
    """Differences to the straight continuation of the last two columns, both ways (Pomeranz et al. 2011, with p = 1)."""
    rows = patches.reshape(len(patches), -1, SIZE)
    there = np.abs((2 * rows[..., -1] - rows[..., -2])[:, None] - rows[..., 0])
    back = np.abs((2 * rows[..., 0] - rows[..., 1])[None] - rows[:, None, :, -1])
    return np.asarray((there + back).sum(axis=-1))


def tables(patches: Tensor) -> tuple[Floats, Floats]:
    """Evidence of both measures."""
    return neighbour_evidence(patches, [mahalanobis_gradient, gaussian_ratio])


def neighbours() -> tuple[Floats, Floats]:
    """`[places, places]` each: 1 where the second place is to the right of, or below, the first."""
    stay, step = np.eye(8), np.eye(8, k=1)
    return np.asarray(np.kron(stay, step), dtype=np.float64), np.asarray(np.kron(step, stay), dtype=np.float64)


def slope(placed: Floats, across: Floats, down: Floats) -> Floats:
    """Evidence `[places, patches]` for each patch at each place, given how the others are `placed` (rows: places)."""
    right, below = neighbours()
    return np.asarray(right @ placed @ across.T + right.T @ placed @ across + below @ placed @ down.T + below.T @ placed @ down)


def total(placed: Floats, across: Floats, down: Floats) -> float:
    """Twice the evidence of a placement."""
    return float((slope(placed, across, down) * placed).sum())


def checkerboard(patches: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    """The best of 20 random starts, each colour of the checkerboard assigned anew in turn, 50 times."""
    across, down = tables(patches)
    colour = np.add.outer(np.arange(8), np.arange(8)).ravel() % 2
    found = []
    for _start in range(20):
        placed = np.eye(64)[torch.randperm(64, generator=generator).numpy()]
        for turn in range(100):
            places = np.flatnonzero(colour == turn % 2)
            pieces = placed[places].argmax(axis=1)
            chosen = linear_sum_assignment(-slope(placed, across, down)[np.ix_(places, pieces)])[1]
            placed[places] = np.eye(64)[pieces[chosen]]
        found.append((total(placed, across, down), placed.argmax(axis=1)))
    return torch.from_numpy(max(found, key=lambda pair: pair[0])[1])


def faq(patches: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    """The best of 30 random starts of the fast approximate quadratic assignment (Vogelstein et al. 2015).

    As `scipy.optimize.quadratic_assignment(method="faq")`, which takes one pair of matrices where a grid has two.
    """
    across, down = tables(patches)
    found = []
    for _start in range(30):
        placed = torch.rand(64, 64, generator=generator, dtype=torch.float64).numpy()
        for _round in range(20):
            placed /= placed.sum(axis=0)
            placed /= placed.sum(axis=1, keepdims=True)
        placed = (placed + 1 / 64) / 2
        for _step in range(40):
            gradient = slope(placed, across, down)
            step = np.eye(64)[linear_sum_assignment(-gradient)[1]] - placed
            linear, square = float((gradient * step).sum()), total(step, across, down) / 2
            length = 1.0 if square >= 0 else min(1.0, -linear / (2 * square))
            if length * linear < 1e-6:
                break
            placed = placed + length * step
        order = linear_sum_assignment(-placed)[1]
        found.append((total(np.eye(64)[order], across, down), order))
    return torch.from_numpy(max(found, key=lambda pair: pair[0])[1])


def decibels(guess: Tensor, truth: Tensor) -> float:
    """PSNR, at most 150 as in the suite."""
    return min(150.0, float(-10 * torch.log10((guess.double() - truth.double()).square().mean())))


if __name__ == "__main__":
    main()
