"""`privbench evaluate`: what a victim can still do under its defense, as a price file that the leaderboard joins."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from privbench.cli.numeric import SEED, Number, WholeNumber

if TYPE_CHECKING:
    from privbench.data import ImageSet
    from privbench.models import VictimCard

__all__ = ["evaluate"]

_DEFAULT_LIMIT = 1000


@click.command()
@click.option("--defense", default="none", show_default=True, help="Defense, NAME:KEY=VALUE,...; A+B composes.")
@click.option("--model", default="vit_mini_patch4_32", show_default=True, help="Victim: an embedded or timm model.")
@click.option("--weights", default="embedded", show_default=True, help="embedded, pretrained (timm's hub), or a file.")
@click.option("--data", default="cifar10", show_default=True, help="Test images: a data set, folder or file.")
@click.option("--limit", type=WholeNumber(min=1), help="The first N test images.  [default: 1000, or all of fewer]")
@click.option(
    "--jigsaw",
    default="mjp:mask_ratio=0.5",
    show_default=True,
    help="Defense whose batch hook makes the jigsaw of masked-jigsaw accuracy, consistency and difference of features.",
)
@click.option(
    "--epsilon",
    default=2 / 255,
    show_default="2/255",
    type=Number(min=0, max=1, min_open=True),
    help="Largest change of a pixel, in [0, 1], under FGSM and PGD.",
)
@click.option(
    "--measure",
    default="all",
    show_default=True,
    help="all, accuracy alone, or with it any of jigsaw, attacks, corruptions, positions, separated by commas.",
)
@click.option(
    "--draws",
    default=10,
    show_default=True,
    type=WholeNumber(min=1, max=1000),
    help="Of layers that are random at inference: what is measured is the mean over so many.",
)
@click.option("--unknown", help="Images of none of the victim's classes, for AUPR: a data set, folder or file.")
@click.option(
    "--reference",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Price file of another victim: the mean corruption error is relative to it.",
)
@click.option("--keep-positions", is_flag=True, help="Also write the position rows, for `figure positions --weights`.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Source of all random choices.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:N].")
@click.option(
    "--output",
    default=Path("results") / "runs" / "prices",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of price files.",
)
def evaluate(
    defense: str,
    model: str,
    weights: str,
    data: str,
    limit: int | None,
    jigsaw: str,
    epsilon: float,
    measure: str,
    draws: int,
    unknown: str | None,
    reference: Path | None,
    keep_positions: bool,
    seed: int,
    device: str,
    output: Path,
) -> None:
    """Measure what a defense costs its victim.

    Accuracy with and without the defense's batch hook, under a masked jigsaw, FGSM, PGD and nine corruptions; calibration;
    what the position embedding tells of positions. Layers that are random at inference are on.
    """
    import torch
    from rich.console import Console
    from safetensors.torch import save

    from privbench.analysis.flags import FLAG_MEANINGS
    from privbench.analysis.tables import price_table
    from privbench.cli.console import results_console
    from privbench.core import Price, Training, UserError, build_defense, resolve_defense
    from privbench.core.packages import require_packages
    from privbench.data import open_images, select
    from privbench.models import card_beside, load_victim, position_rows, read_card, resolve_victim
    from privbench.runner.machine import cpu_threads, resolve_device
    from privbench.store.files import atomic_write, check_output
    from privbench.training import MeasureOptions, measure_price

    if weights == "random":
        raise UserError("--weights random has no price: nothing was learnt; accepted: embedded, pretrained or a file")
    measures = _measures(measure)
    require_packages("measuring a price", _packages(measures), "price")
    compared = None if reference is None else Price.load(reference)
    check_output(output)
    chosen_device = resolve_device(device)
    specs = resolve_defense(defense)
    built = build_defense(specs)
    images = open_images(data, "test")
    spec = resolve_victim(model, weights, built, num_classes=len(images.class_names) if weights == "pretrained" else None)
    card = read_card(model, built.trained_as()) if weights == "embedded" else None
    card = card_beside(Path(weights)) if weights not in {"embedded", "pretrained"} else card
    _require_labels(images, data, spec.model.num_classes, card)
    count = len(select(images, limit=min(_DEFAULT_LIMIT, len(images)) if limit is None else limit))
    jigsaw_defense = build_defense(resolve_defense(jigsaw))
    training = None
    if card is not None:
        training = Training(defense=card.defense, dataset=card.dataset, epochs=card.epochs, recipe=dict(card.recipe))
    generator = torch.Generator().manual_seed(seed)
    victim = load_victim(spec, built, generator=generator).to(chosen_device)
    rows = position_rows(victim) if keep_positions else None
    strange = None if unknown is None else open_images(unknown, "test")
    pixels, labels = images.as_tensors(spec.model.image_size)
    console = Console(stderr=True)
    with cpu_threads(None, spec.model.image_size), console.status("") as status:
        price = measure_price(
            victim,
            spec,
            built,
            specs,
            pixels[:count],
            labels[:count],
            dataset=images.name,
            options=MeasureOptions(
                jigsaw_defense,
                jigsaw,
                epsilon,
                seed,
                measures,
                draws,
                None if strange is None else strange.as_tensors(spec.model.image_size)[0][:count],
                None if strange is None else strange.name,
            ),
            training=training,
            report=lambda what: status.update(f"measuring {what}"),
        )
    text = price.to_json()
    name = "--".join(("+".join(part.name for part in specs), Path(model).name, hashlib.sha256(text.encode()).hexdigest()[:12]))
    path = output / f"price--{name}.json"
    atomic_write(path, text.encode())
    if rows is not None:
        atomic_write(output / f"positions--{name}.safetensors", save(rows))
    results_console().print(price_table(price, defense))
    if compared is not None:
        click.echo(f"mean corruption error relative to {reference}: {price.mean_corruption_error(compared):.3f}")
    if victim.changed_after_training:
        flag = "defense-added-after-training"
        click.echo(f"{defense}: {flag}: {FLAG_MEANINGS[flag]}")
    for missing, reason in price.unavailable.items():
        click.echo(f"{missing}: n/a, {reason}")
    click.echo(str(path))
    if rows is not None:
        click.echo(str(output / f"positions--{name}.safetensors"))


def _require_labels(images: "ImageSet", data: str, num_classes: int, card: "VictimCard | None") -> None:
    """Refuses images whose labels are not those that the victim learnt: its accuracy on them would say nothing.

    Classes are compared by number, and by name where both are known.

    Raises:
        UserError: They are not.
    """
    from privbench.core import UserError
    from privbench.data.cifar10 import CIFAR10_CLASSES

    if images.flags:
        raise UserError(f"the images of {data} have no labels; a price needs labelled test images, such as --data cifar10")
    if images.nominal_labels:
        raise UserError(
            f"the labels of {data} are assigned and do not name what the images show; a price needs labelled test images, such "
            "as --data cifar10"
        )
    images.for_classes(num_classes)
    if not images.has_class_names:
        return
    remedy = "choose test images of the classes that the victim was trained on"
    if len(images.class_names) != num_classes:
        raise UserError(f"{data} has {len(images.class_names)} classes and the victim {num_classes}; {remedy}")
    learnt = {name.casefold() for name in CIFAR10_CLASSES} if card is not None and card.dataset == "cifar10" else None
    if learnt is not None and learnt.isdisjoint(name.casefold() for name in images.class_names):
        raise UserError(
            f"no class of {data} ({images.class_names[0]}, ...) is one of cifar10, on which the victim was trained; {remedy}"
        )


def _packages(measures: frozenset[str]) -> list[str]:
    """What the extra `price` brings, as far as it is needed."""
    return ["torchmetrics", "sklearn", *(["foolbox"] if "attacks" in measures else [])]


def _measures(text: str) -> frozenset[str]:
    from privbench.core import UserError
    from privbench.training import MEASURES

    names = [name.strip() for name in text.split(",")]
    if names == ["all"]:
        return frozenset(MEASURES)
    if "all" in names:
        raise UserError(f"--measure {text} names all and more; write all by itself, or leave it out")
    if not all(names):
        raise UserError(f"an empty entry in --measure '{text}'; accepted: all, accuracy, {', '.join(MEASURES)}")
    unknown = [name for name in names if name not in {"accuracy", *MEASURES}]
    if unknown:
        raise UserError(f"--measure {unknown[0]} is not known; accepted: all, accuracy, {', '.join(MEASURES)}")
    return frozenset(names) - {"accuracy"}
