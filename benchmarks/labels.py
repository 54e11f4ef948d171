"""How many labels of a batch each rule reads off the last layer's gradient: the table of "Label recovery" in attacks/README.md.

python -m benchmarks.labels --data DIR

Batches are drawn at random from CIFAR-10's test images, so many without repeated labels and so many with them; the client
is the embedded victim without a defense.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import fmean

import click
import torch

from benchmarks.command import Benchmark
from privbench.client import observe
from privbench.core import Observation, ThreatModel, UserError, build_defense, resolve_defense
from privbench.data import ImageSet, open_images
from privbench.label_recovery import LabelRule, recover_labels
from privbench.models import DEFAULT_MODEL, Victim, load_victim, resolve_victim
from privbench.scoring import bootstrap_interval

__all__ = ["draws", "found", "main"]

_RULES: tuple[LabelRule, ...] = ("idlg", "last-layer", "bias-counts")
_TRIES = 100_000


def draws(labels: Sequence[int], size: int, repeated: bool, count: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Random batches of image positions whose labels repeat, or do not.

    Args:
        labels: Of all images.
        size: Images in a batch.
        repeated: Whether some label must occur twice or more; else all must differ.
        count: How many batches.
        generator: Source of the draws.

    Raises:
        UserError: No such batch came up, such as eleven images of ten classes without a repeat.
    """
    for _ in range(count):
        for _ in range(_TRIES):
            batch = torch.randint(len(labels), (size,), generator=generator).tolist()
            distinct = len({labels[index] for index in batch})
            if (distinct < size) == repeated and len(set(batch)) == size:
                yield batch
                break
        else:
            kind = "with" if repeated else "without"
            raise UserError(f"no batch of {size} images {kind} repeated labels among {_TRIES} draws; choose another size")


def found(observation: Observation, labels: Sequence[int], weight: str, rule: LabelRule) -> float:
    """Share of the batch's labels that a rule finds, counted with repeats; the order is not known and does not count."""
    recovered = Counter(recover_labels(observation, weight, rule).tolist())
    return sum((recovered & Counter(labels)).values()) / len(labels)


def cell(observations: Sequence[tuple[Observation, list[int]]], weight: str, rule: LabelRule) -> str:
    """Mean with its 95 % interval over batches and the share of batches found whole, or that the rule refuses (why: stderr)."""
    try:
        shares = [found(observation, labels, weight, rule) for observation, labels in observations]
    except UserError as error:
        click.echo(str(error), err=True)
        return "refused"
    interval = bootstrap_interval(shares, seed=0)
    whole = fmean(share == 1 for share in shares)
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}], whole {whole:.2f}"


def observed(victim: Victim, images: ImageSet, batches: Iterator[list[int]]) -> list[tuple[Observation, list[int]]]:
    """The client's update for each batch, with the true labels."""
    defense = build_defense(resolve_defense("none"))
    spec = resolve_victim(DEFAULT_MODEL, "embedded", defense).model
    updates = []
    for batch in batches:
        pixels, labels = images.load(batch, spec.image_size)
        observation, _ = observe(
            victim,
            spec,
            defense,
            pixels,
            labels,
            declared=(),
            threat_model=ThreatModel(),
            generator=torch.Generator().manual_seed(0),
        )
        updates.append((observation, labels.tolist()))
    return updates


@click.command(cls=Benchmark)
@click.option("--data", default="cifar10", show_default=True, help="As in `privbench run --data`.")
@click.option("--size", "sizes", multiple=True, type=click.IntRange(min=1), default=[1, 4, 8, 16], show_default=True)
@click.option("--batches", type=click.IntRange(min=1), default=100, show_default=True, help="Batches of each kind.")
def main(data: str, sizes: Sequence[int], batches: int) -> None:
    """Share of labels found by each rule, by batch size, without and with repeated labels."""
    torch.set_num_threads(1)
    images = open_images(data)
    defense = build_defense(resolve_defense("none"))
    victim = load_victim(resolve_victim(DEFAULT_MODEL, "embedded", defense), defense, generator=torch.Generator())
    weight = victim.classifier_names()[0]
    click.echo(" | ".join(["batch", "labels repeat", *_RULES]))
    for size in sizes:
        for repeated in (False, True):
            generator = torch.Generator().manual_seed(size)
            name = f"{size} | {'yes' if repeated else 'no'}"
            try:
                updates = observed(victim, images, draws(images.labels, size, repeated, batches, generator))
            except UserError as error:
                click.echo(f"{name} | none")
                click.echo(str(error), err=True)
                continue
            click.echo(" | ".join([name, *(cell(updates, weight, rule) for rule in _RULES)]))


if __name__ == "__main__":
    main()
