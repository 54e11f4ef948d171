"""Federated averaging and transfer with and without stochastic layers, small (Popovic et al., arXiv 2112.15111).

    python -m benchmarks.federated --data cifar10 -o benchmarks/federated.csv

Clients hold disjoint images of the first half of the classes. In every round each client trains one epoch from the server's
weights and sends its weight delta, as `privbench run --local` has it; the server adds the mean of the deltas. What comes out is
then fine-tuned by one client on the other half of the classes under a new classifier, beside the same training from random
weights. A row is a seed, a defense, a phase and a round: top-1 on test images, the mean over draws of the layers, which are on.
Started again with the same file, it goes on behind the last seed and defense that are whole.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path
from typing import cast

import click
import torch
from torch import Tensor, nn

from benchmarks.command import Benchmark
from benchmarks.printed import rows_there
from privbench.client import observe
from privbench.core import (
    ComponentSpec,
    Defense,
    LocalTraining,
    ModelSpec,
    ThreatModel,
    UserError,
    VictimSpec,
    build_defense,
    resolve_defense,
)
from privbench.data import open_images
from privbench.models import DEFAULT_MODEL, Victim, default_spec, load_victim
from privbench.scoring import student_interval
from privbench.training import MeasureOptions
from privbench.training.measure import Measure

__all__ = ["Federation", "deployed_accuracy", "federate", "whole_runs"]

Labelled = tuple[Tensor, Tensor]
"""Images `[n, 3, height, width]` uint8 and labels `[n]` int64."""

_COLUMNS = ["seed", "defense", "phase", "round", "accuracy"]
_PHASES = ("federated", "fine-tuned", "scratch")


@dataclass(frozen=True)
class Federation:
    """A server's model under a defense.

    Attributes:
        victim: The global model, changed by `federate`.
        model: Its architecture.
        defense: Of every client.
        declared: The same as clients declare it.
    """

    victim: Victim
    model: ModelSpec
    defense: Defense
    declared: tuple[ComponentSpec, ...]

    @classmethod
    def fresh(cls, text: str, classes: int, seed: int, model: str = DEFAULT_MODEL) -> "Federation":
        """Random weights, the same for all defenses that add none."""
        declared = resolve_defense(text)
        defense, spec = build_defense(declared), default_spec(model, num_classes=classes)
        victim = load_victim(VictimSpec(model=spec, weights="random"), defense, generator=torch.Generator().manual_seed(seed))
        return cls(victim, spec, defense, declared)


def federate(
    federation: Federation,
    clients: Sequence[Labelled],
    training: LocalTraining,
    rounds: int,
    generator: torch.Generator,
) -> Iterator[int]:
    """Averages the clients' deltas, round by round (McMahan et al., AISTATS 2017; all clients have equally many images).

    Args:
        federation: Its victim is trained.
        clients: What each of them holds.
        training: What each does in a round.
        rounds: How many.
        generator: Source of the clients' choices.

    Yields:
        The number of the round that is done, from 1.
    """
    parameters = dict(federation.victim.named_parameters())
    for number in range(1, rounds + 1):
        deltas = [
            observe(
                federation.victim,
                federation.model,
                federation.defense,
                images.float() / 255,
                labels,
                declared=federation.declared,
                threat_model=ThreatModel(),
                generator=generator,
                training=training,
            )[0].update
            for images, labels in clients
        ]
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.add_(torch.stack([delta[name] for delta in deltas]).mean(0))
        yield number


def deployed_accuracy(federation: Federation, test: Labelled, draws: int, seed: int) -> float:
    """Top-1 with random layers on, the mean over draws."""
    none = build_defense(resolve_defense("none"))
    options = MeasureOptions(none, "none", seed=seed, measures=frozenset(), draws=draws)
    measure = Measure(federation.victim, federation.defense, *test, options)
    return float(measure.correct(measure.draws_of_logits()).mean())


def _half(data: Labelled, classes: range) -> Labelled:
    """The images of some classes, their labels from 0."""
    chosen = (data[1] >= classes.start) & (data[1] < classes.stop)
    return data[0][chosen], data[1][chosen] - classes.start


def _new_classifier(victim: Victim, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        cast(nn.Linear, victim.get_submodule(victim.classifier_names()[0].removesuffix(".weight"))).reset_parameters()


def whole_runs(rows: Sequence[Sequence[str]], most: int) -> list[list[str]]:
    """The rows of seeds and defenses that were ended; of one that was interrupted there are fewer than `most`.

    Raises:
        UserError: There are more, so that they were made with other numbers of rounds.
    """
    kept: list[list[str]] = []
    for (seed, text), group in groupby(rows, key=lambda row: (row[0], row[1])):
        found = [list(row) for row in group]
        if len(found) > most:
            raise UserError(
                f"seed {seed} of {text} has {len(found)} rows in the file, and these --rounds and --tuning make {most}; give "
                "those that the file was made with, or name another file"
            )
        kept += found if len(found) == most else []
    return kept


@dataclass(frozen=True)
class _Setting:
    """Sizes of the experiment; as the options of the command line, and the two halves of the classes."""

    halves: tuple[range, range]
    clients: int
    images: int
    rounds: int
    tuning: int
    draws: int

    @property
    def rows(self) -> int:
        """Of one seed and one defense."""
        return self.rounds + 2 * self.tuning


def _run(
    setting: _Setting, text: str, seed: int, training: Labelled, seen: Sequence[Labelled]
) -> Iterator[tuple[str, int, float]]:
    """Phase, round and accuracy of one seed under one defense; `training` has both halves of the classes, `seen` tests each."""
    orders, steps = torch.Generator().manual_seed(seed), max(1, setting.images // 32)
    local = LocalTraining(optimiser="adamw", learning_rate=1e-3, batches=steps, steps=steps)
    pools = []
    for half, count in zip(setting.halves, (setting.clients, 1), strict=True):
        pixels, labels = _half(training, half)
        order = torch.split(torch.randperm(len(labels), generator=orders)[: count * setting.images], setting.images)
        pools.append([(pixels[part], labels[part]) for part in order])
    classes = len(setting.halves[0])
    trained, scratch = Federation.fresh(text, classes, seed), Federation.fresh(text, classes, seed + 1000)
    numbers = (setting.rounds, setting.tuning, setting.tuning)
    for phase, federation, half_number, count in zip(_PHASES, (trained, trained, scratch), (0, 1, 1), numbers, strict=True):
        if phase == "fine-tuned":
            _new_classifier(trained.victim, seed)
        choices = torch.Generator().manual_seed(seed)
        for number in federate(federation, pools[half_number], local, count, choices):
            yield phase, number, deployed_accuracy(federation, seen[half_number], setting.draws, seed)


def _summary(rows: Sequence[Sequence[str]], setting: _Setting, defenses: Sequence[str], seeds: int) -> None:
    """Prints how each defense differs from the first one in the last round of each phase, with its interval over seeds."""
    first, *others = defenses
    for text, (phase, last) in product(others, zip(_PHASES, (setting.rounds, setting.tuning, setting.tuning), strict=True)):
        ends = {(row[0], row[1]): float(row[4]) for row in rows if row[2:4] == [phase, str(last)]}
        found = student_interval([ends[str(seed), text] - ends[str(seed), first] for seed in range(seeds)])
        click.echo(f"{text} less {first}, {phase}: {found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}], {seeds} seeds")


@click.command(cls=Benchmark)
@click.option("--data", default="cifar10", show_default=True, help="A data set with training and test images.")
@click.option("--defense", default="none,stochastic-layers", show_default=True, help="Defenses, separated by commas.")
@click.option("--clients", default=4, show_default=True)
@click.option("--images", default=400, show_default=True, help="Of each client, and for fine-tuning.")
@click.option("--test-images", default=1000, show_default=True, help="Of each half of the classes, at most.")
@click.option("--rounds", default=8, show_default=True)
@click.option("--tuning", default=4, show_default=True, help="Epochs of fine-tuning.")
@click.option("--draws", default=3, show_default=True, help="Of the layers, for each test image.")
@click.option("--seeds", default=3, show_default=True)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="CSV file.")
def main(
    data: str,
    defense: str,
    clients: int,
    images: int,
    test_images: int,
    rounds: int,
    tuning: int,
    draws: int,
    seeds: int,
    output: Path,
) -> None:
    """Train all federations, and write a row for each round as it is done."""
    sets = [open_images(data, split) for split in ("train", "test")]
    classes = len(sets[0].class_names) // 2
    halves = range(classes), range(classes, 2 * classes)
    setting, defenses = _Setting(halves, clients, images, rounds, tuning, draws), defense.split(",")
    rows = whole_runs(rows_there(output, _COLUMNS), setting.rows)
    # Enough of each half with a margin: classes come in random order.
    wanted = (3 * (clients + 1) * images, 3 * test_images)
    training, test = (one.as_tensors(32, most) for one, most in zip(sets, wanted, strict=True))
    seen = [cast(Labelled, tuple(part[:test_images] for part in _half(test, half))) for half in halves]
    with output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([_COLUMNS, *rows])
        file.flush()
        for seed, text in product(range(seeds), defenses):
            if any(row[:2] == [str(seed), text] for row in rows):
                continue
            for phase, number, accuracy in _run(setting, text, seed, training, seen):
                rows.append([str(seed), text, phase, str(number), f"{accuracy:.4f}"])
                writer.writerow(rows[-1])
                file.flush()
                click.echo(f"seed {seed} {text} {phase} {number}: {accuracy:.1%}")
    _summary(rows, setting, defenses, seeds)


if __name__ == "__main__":
    main()
