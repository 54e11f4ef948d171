"""`privbench features`: what the features behind a block give away of an image, with and without a defense."""

from pathlib import Path
from typing import Any

import click

import privbench
from privbench.cli.numeric import SEED, WholeNumber

__all__ = ["features"]


@click.command()
@click.option("--defense", default="none,stochastic-layers", show_default=True, help="Defenses, separated by commas.")
@click.option("--attack", default="feature-matching,feature-decoder", show_default=True, help="Attacks, NAME:KEY=VALUE,...")
@click.option("--adversary", default="unaware,aware,oracle", show_default=True, help="Adversaries, separated by commas.")
@click.option("--block", default=1, show_default=True, type=WholeNumber(min=0), help="Behind which block; 0: embedded tokens.")
@click.option("--model", default="vit_mini_patch4_32", show_default=True, help="Victim: an embedded or timm model.")
@click.option("--weights", default="embedded", show_default=True, help="embedded, pretrained (timm's hub), random, or a file.")
@click.option("--data", default="photos", show_default=True, help="Private images: a data set, folder or file.")
@click.option("--limit", default=4, show_default=True, type=WholeNumber(min=1), help="The first N private images.")
@click.option("--public", help="Images that decoders learn from: a data set, folder or file.")
@click.option("--public-limit", default=5000, show_default=True, type=WholeNumber(min=1), help="The first N of them.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Source of all random choices.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:N].")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="CSV file to write too, a row an image.")
def features(output: Path | None, **options: Any) -> None:
    """Invert the features behind a block: by optimisation, and by a decoder trained on public images.

    The unaware adversary takes a draw of its own for the client's, the aware one averages over draws, the oracle is told the
    client's. Decoders are left out where no public images are named.
    """
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        found = privbench.invert_features(report=status.update, output=output, **options)
    for row in found.rows:
        psnr, ssim = row.scores["psnr"], row.scores["ssim"]
        click.echo(
            f"{row.defense:40} block {row.block}  {row.attack:17} {row.adversary:8} "
            f"PSNR {psnr.mean:5.1f} [{psnr.low:.1f}, {psnr.high:.1f}]  SSIM {ssim.mean:.3f}"
        )
    if output is not None:
        click.echo(output)
