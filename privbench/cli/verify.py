"""`privbench verify`: one row of a leaderboard, computed again."""

from pathlib import Path

import click

import privbench
from privbench.cli.numeric import Number

__all__ = ["verify"]


@click.command()
@click.argument("row")
@click.option("--output", type=click.STRING, default="results", show_default=True, help="Where to look for a hash.")
@click.option(
    "--tolerance", default=1.0, show_default=True, type=Number(min=0), help="Factor on the tolerances of the metrics."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda (all of them) or cuda:INDEX.")
@click.option("--data", help="Where the private images lie here, if not where the record says.")
@click.option("--weights", type=click.Path(path_type=Path), help="File of the victim's weights, likewise.")
@click.option("--lpips-weights", type=click.Path(path_type=Path), help="File with the trunk's weights.")
@click.option("--download/--no-download", default=True, show_default=True, help="Fetch the trunk where it is not cached.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
def verify(
    row: str,
    output: str,
    tolerance: float,
    device: str,
    data: str | None,
    weights: Path | None,
    lpips_weights: Path | None,
    download: bool,
    quiet: bool,
) -> None:
    """Compute ROW again, a case's folder or the hash in the leaderboard's column `case`, and say whether its record holds.

    The folder may be a URL or a place in a pack. Images and weights of other names or folders than the record's are given by
    --data and --weights; their content must be the same. The means may differ by 0.5 dB of PSNR (above 60 dB they
    count as equal) and 0.02 of SSIM and LPIPS, times --tolerance. Exit code 0: it holds; 1: it does not.
    """
    import torch

    from privbench.cli.console import notes_console, results_console
    from privbench.cli.progress import PlainProgress, QuietProgress
    from privbench.core.labels import defense_label
    from privbench.tables.checks import checks_table

    with (QuietProgress if quiet else PlainProgress)(notes_console(), defense_label) as listener:
        found = privbench.verify(
            row,
            output,
            tolerance=tolerance,
            device=device,
            data=data,
            weights=weights,
            lpips_weights=lpips_weights,
            download=download,
            listener=listener,
        )
    record, made = found.record, found.record.provenance
    results_console().print(checks_table(record, found.checks, defense_label(record.case)))
    click.echo(
        f"recorded with privbench {made.version}, torch {made.torch}, {made.device}, threads {made.threads}; "
        f"here torch {torch.__version__}, threads {made.threads}"
    )
    if found.wrong:
        click.echo(f"does not hold: {', '.join(found.wrong)}")
        raise click.exceptions.Exit(1)
    click.echo("holds, equal to the last bit" if found.equal else "holds within the tolerance")
