"""`privbench train`: trains a victim under a defense and writes its weights with a card."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from click.core import ParameterSource

from privbench.cli.numeric import SEED, Number, WholeNumber

if TYPE_CHECKING:
    from privbench.data import ImageSet
    from privbench.models import Victim

__all__ = ["train"]

POSITIVE = Number(min=0, min_open=True)
SHARE, BELOW_ONE = Number(min=0, max=1), Number(min=0, max=1, max_open=True)
INSIDE = Number(min=0, max=1, min_open=True, max_open=True)


@click.command()
@click.option("--defense", default="none", show_default=True, help="Defense to train under, NAME or NAME:KEY=VALUE.")
@click.option("--model", default="vit_mini_patch4_32", show_default=True, help="Registered or timm model name.")
@click.option("--data", default="cifar10", show_default=True, help="Registered data set, folder or parquet files.")
@click.option("--epochs", default=10, show_default=True, type=WholeNumber(min=1), help="Passes over the training data.")
@click.option("--batch-size", default=128, show_default=True, type=WholeNumber(min=1), help="Images per step.")
@click.option("--learning-rate", default=1e-3, show_default=True, type=POSITIVE, help="Peak of the one-cycle schedule.")
@click.option("--weight-decay", default=0.05, show_default=True, type=Number(min=0), help="AdamW weight decay.")
@click.option("--rise", default=0.2, show_default=True, type=INSIDE, help="Share of steps while the rate rises.")
@click.option("--clip", default=1.0, show_default=True, type=POSITIVE, help="Largest norm of the gradient.")
@click.option(
    "--augmentation",
    default="flip",
    show_default=True,
    type=click.Choice(["flip", "trivial"]),
    help="Crops and flips; or an operation of TrivialAugment too, for long runs.",
)
@click.option("--erasing", default=0.0, show_default=True, type=SHARE, help="Share of images with an erased rectangle.")
@click.option("--mixing", default=0.0, show_default=True, type=SHARE, help="Share of images mixed by mixup or CutMix.")
@click.option("--smoothing", default=0.0, show_default=True, type=BELOW_ONE, help="Part of a label spread over all classes.")
@click.option("--teacher", help="Model whose embedded weights teach: their predictions become part of the labels.")
@click.option("--teacher-weight", default=0.5, show_default=True, type=Number(min=0, max=1, min_open=True), help="That part.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Source of all random choices.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:N].")
@click.option("--limit", type=WholeNumber(min=1), help="Use only the first N training images.")
@click.option(
    "--output",
    default="checkpoints",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for weights, card and checkpoint; an interrupted run found there goes on.",
)
@click.pass_context
def train(
    context: click.Context,
    defense: str,
    model: str,
    data: str,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    rise: float,
    clip: float,
    augmentation: Literal["flip", "trivial"],
    erasing: float,
    mixing: float,
    smoothing: float,
    teacher: str | None,
    teacher_weight: float,
    seed: int,
    device: str,
    limit: int | None,
    output: Path,
) -> None:
    """Trains a victim under a defense; writes MODEL.DEFENSE.safetensors and its card."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from privbench.core import resolve_defense
    from privbench.data import select
    from privbench.models import default_spec
    from privbench.runner.machine import resolve_device
    from privbench.store.files import check_output
    from privbench.training import EpochReport, LabelledImages, TrainingPlan
    from privbench.training import train as run_training

    check_output(output)
    chosen_device = resolve_device(device)
    specs = resolve_defense(defense)
    spec = default_spec(model)
    sets = _splits(data)
    # Refuses a number that the data does not have.
    count = len(select(sets[0], limit=limit))
    plan = TrainingPlan(
        model=model,
        defense=specs,
        dataset=sets[0].name,
        num_classes=max(2, len(sets[0].class_names)),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        rise=rise,
        clip=clip,
        augmentation=augmentation,
        erasing=erasing,
        mixing=mixing,
        smoothing=smoothing,
        teacher=None if teacher is None else f"{teacher} (sha256 {_sha256(teacher)[:12]})",
        teacher_weight=teacher_weight,
        seed=seed,
    )
    training, test = (LabelledImages(*images.as_tensors(spec.image_size)) for images in sets)
    training = LabelledImages(training.images[:count], training.labels[:count])
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("loss {task.fields[loss]:.3f}"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"{model} under {defense}", total=None, loss=float("nan"))

        def report(now: EpochReport) -> None:
            done = (now.epoch - 1) * now.batches + now.batch
            progress.update(task, completed=done, total=now.epochs * now.batches, loss=now.loss)
            if now.batch == now.batches and not console.is_terminal:
                console.print(f"{model} under {defense}: epoch {now.epoch}/{now.epochs}, loss {now.loss:.3f}", highlight=False)

        card = run_training(
            plan,
            training,
            test,
            output=output,
            device=chosen_device,
            command=_command(context),
            report=report,
            teacher=_teacher(teacher, plan.num_classes),
            compiled=chosen_device.type == "cuda",
        )
    click.echo(
        f"{card.model} trained with {defense}: top-1 {card.accuracy:.2%} on {card.test_images} test images "
        f"({card.defended_accuracy:.2%} under the defense), {card.seconds:.0f} s; weights and card in {output}"
    )
    click.echo(f"claim of {defense}: {card.claim}")


def _sha256(teacher: str) -> str:
    from privbench.core import build_defense, resolve_defense
    from privbench.models import resolve_victim

    return str(resolve_victim(teacher, "embedded", build_defense(resolve_defense("none"))).weights_sha256)


def _teacher(name: str | None, classes: int) -> "Victim | None":
    """The embedded network of that name, frozen.

    Raises:
        UserError: There is none, or it knows other classes.
    """
    import torch

    from privbench.core import UserError, build_defense, resolve_defense
    from privbench.models import load_victim, resolve_victim

    if name is None:
        return None
    none = build_defense(resolve_defense("none"))
    spec = resolve_victim(name, "embedded", none)
    if spec.model.num_classes != classes:
        raise UserError(
            f"the teacher {name} knows {spec.model.num_classes} classes, the data has {classes}; leave out --teacher"
        )
    return load_victim(spec, none, generator=torch.Generator()).requires_grad_(False)


def _splits(data: str) -> "list[ImageSet]":
    """The images for training and for the test, of the same classes.

    Raises:
        UserError: They cannot be had, or their labels do not mean the same.
    """
    from privbench.core import UserError
    from privbench.data import open_images

    sets = []
    for split in ("train", "test"):
        try:
            sets.append(open_images(data, split))
        except UserError as error:
            if not str(error).startswith("unknown split"):
                raise
            raise UserError(
                f"training needs the splits train and test, and {data} has no {split} ({error}); "
                "give a folder or a data set that has both"
            ) from None
    training, test = sets
    if training.nominal_labels or test.nominal_labels:
        raise UserError(f"the images of {data} have no labels; training needs labelled images, such as --data cifar10")
    if training.has_class_names and test.has_class_names and training.class_names != test.class_names:
        odd = sorted(set(training.class_names) ^ set(test.class_names))
        raise UserError(
            f"the splits of {data} have different classes ({odd[0] if odd else 'in another order'}), so labels do not mean the "
            "same; give both the same classes"
        )
    return sets


def _command(context: click.Context) -> str:
    """What the user gave, without the options that change nothing; a path is written PATH, for it differs by machine."""
    words = ["privbench", "train"]
    for option in context.command.params:
        name = option.name or ""
        if name in {"output", "device"} or context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value = str(context.params[name])
        words += [option.opts[0], "PATH" if name == "data" and "/" in value else value]
    return shlex.join(words)
