"""`privbench train`: trains a victim under a defense and writes its weights with a card."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import privbench
from privbench.cli.numeric import SEED, Number, WholeNumber
from privbench.cli.options import log_option

if TYPE_CHECKING:
    from privbench.api.watching import EpochReport

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
    type=click.Choice(["none", "flip", "trivial"]),
    help="None, for a few epochs; crops and flips; or an operation of TrivialAugment too, for long runs.",
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
@click.option(
    "--snapshots",
    default="",
    metavar="EPOCHS",
    help="Keep the weights after these epochs too, such as 1,5-7, to study training.",
)
@log_option
def train(defense: str, model: str, output: Path, **options: Any) -> None:
    """Trains a victim under a defense; writes MODEL.DEFENSE.safetensors and its card."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("loss {task.fields[loss]:.3f}"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"{model} under {defense}", total=None, loss=float("nan"))

        def report(now: "EpochReport") -> None:
            done = (now.epoch - 1) * now.batches + now.batch
            progress.update(task, completed=done, total=now.epochs * now.batches, loss=now.loss)
            if now.batch == now.batches and not console.is_terminal:
                console.print(f"{model} under {defense}: epoch {now.epoch}/{now.epochs}, loss {now.loss:.3f}", highlight=False)

        def note(line: str) -> None:
            console.print(line, markup=False, soft_wrap=True)

        card = privbench.train(defense=defense, model=model, output=output, report=report, note=note, **options)
    click.echo(
        f"{card.model} trained with {defense}: top-1 {card.accuracy:.2%} on {card.test_images} test images "
        f"({card.defended_accuracy:.2%} under the defense), {card.seconds:.0f} s; weights and card in {output}"
    )
    click.echo(f"guarantee of {defense}: {card.guarantee}")
