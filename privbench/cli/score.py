"""`privbench score`: any tool's reconstructions, scored by the protocol of the suite."""

from pathlib import Path
from typing import Literal

import click

import privbench
from privbench.cli.numeric import SEED, WholeNumber

__all__ = ["score"]


@click.command()
@click.argument("originals", type=click.Path(path_type=Path))
@click.argument("reconstructions", type=click.Path(path_type=Path))
@click.option(
    "--batch-size",
    default=1,
    show_default=True,
    type=WholeNumber(min=1),
    help="Pictures that came out of one gradient in unknown order: they are paired by assignment.",
)
@click.option(
    "--patch-size", type=WholeNumber(min=1), help="Side of the victim's patches in pixels; without it no patch scores."
)
@click.option(
    "--lpips-net", default="alex", show_default=True, type=click.Choice(["alex", "vgg", "squeeze"]), help="Trunk of LPIPS."
)
@click.option("--lpips-weights", type=click.Path(path_type=Path), help="File with the trunk's weights.")
@click.option("--download/--no-download", default=True, show_default=True, help="Fetch the trunk where it is not cached.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Seed of the bootstrap.")
@click.option(
    "--match",
    default="name",
    show_default=True,
    type=click.Choice(["name", "best"]),
    help="name: by file name, arrays in natural order; best: each to the nearest original, left-over ones are left out.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="CSV file of all scores.")
def score(
    originals: Path,
    reconstructions: Path,
    batch_size: int,
    patch_size: int | None,
    lpips_net: Literal["alex", "vgg", "squeeze"],
    lpips_weights: Path | None,
    download: bool,
    seed: int,
    match: Literal["name", "best"],
    output: Path | None,
) -> None:
    """Score the pictures of any tool: RECONSTRUCTIONS against ORIGINALS.

    Both are a folder of images, or an array (.npz, .npy, .pt, .safetensors). Folders are matched by file name, arrays by
    order. Scores of 8-bit pictures and of floats are told apart: rounding alone bounds the PSNR of a picture at about 59 dB.
    """
    from privbench.cli.console import results_console
    from privbench.tables.scores import score_footnotes, score_table

    scored = privbench.score(
        originals,
        reconstructions,
        batch_size=batch_size,
        patch_size=patch_size,
        lpips_net=lpips_net,
        lpips_weights=lpips_weights,
        download=download,
        seed=seed,
        match=match,
    )
    results_console().print(score_table(scored))
    for line in score_footnotes(scored):
        click.echo(line)
    if output is not None:
        click.echo(scored.save(output))
