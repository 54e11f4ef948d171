"""`privbench evaluate`: what a victim can still do under its defense, as a utility report that the leaderboard joins."""

from pathlib import Path
from typing import Any

import click

import privbench
from privbench.cli.numeric import SEED, Number, WholeNumber

__all__ = ["evaluate"]


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
    help="Utility report of another victim: the mean corruption error is relative to it.",
)
@click.option("--keep-positions", is_flag=True, help="Also write the position rows, for `figure positions --weights`.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Source of all random choices.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:N].")
@click.option(
    "--output",
    default=Path("results") / "runs" / "utility",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of utility reports.",
)
def evaluate(defense: str, reference: Path | None, **options: Any) -> None:
    """Measure what a defense costs its victim.

    Accuracy with and without the defense's batch hook, under a masked jigsaw, FGSM, PGD and nine corruptions; calibration;
    what the position embedding tells of positions. Layers that are random at inference are on.
    """
    from rich.console import Console

    from privbench.cli.console import results_console
    from privbench.tables.utility import utility_table

    with Console(stderr=True).status("") as status:
        found = privbench.evaluate(
            defense=defense,
            reference=reference,
            report=lambda what: status.update(f"measuring {what}"),
            **options,
        )
    results_console().print(utility_table(found.report, defense))
    if found.relative_corruption_error is not None:
        click.echo(f"mean corruption error relative to {reference}: {found.relative_corruption_error:.3f}")
    for remark in found.remarks:
        click.echo(f"{defense}: {remark}")
    for missing, reason in found.report.unavailable.items():
        click.echo(f"{missing}: n/a, {reason}")
    for path in filter(None, (found.path, found.positions)):
        click.echo(path)
