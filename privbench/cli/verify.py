"""`privbench verify`: one row of a leaderboard, computed again."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from privbench.cli.numeric import Number
from privbench.cli.place import case_at, results_place

if TYPE_CHECKING:
    from privbench.store.base import Store

__all__ = ["verify"]


@click.command()
@click.argument("row")
@click.option("--output", type=results_place, default=Path("results"), show_default=True, help="Where to look for a hash.")
@click.option(
    "--tolerance", default=1.0, show_default=True, type=Number(min=0), help="Factor on the tolerances of the metrics."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda (all of them) or cuda:INDEX.")
@click.option("--lpips-weights", type=click.Path(path_type=Path), help="File with the trunk's weights.")
@click.option("--download/--no-download", default=True, show_default=True, help="Fetch the trunk where it is not cached.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
def verify(
    row: str, output: "Store", tolerance: float, device: str, lpips_weights: Path | None, download: bool, quiet: bool
) -> None:
    """Compute ROW again, a case's folder or the hash in the leaderboard's column `case`, and say whether its record holds.

    The folder may be a URL or a place in a pack. The means may differ by 0.5 dB of PSNR (above 60 dB they count as equal) and
    0.02 of SSIM and LPIPS, times --tolerance. Exit code 0: it holds; 1: it does not.
    """
    import torch

    from privbench.analysis.tables import checks_table
    from privbench.cli.console import notes_console, results_console
    from privbench.cli.progress import PlainProgress, QuietProgress
    from privbench.core import ComputeOptions, Record, UserError
    from privbench.core.labels import defense_label
    from privbench.runner.machine import cpu_threads, resolve_devices
    from privbench.runner.suites import Suites
    from privbench.runner.verify import verify as compute
    from privbench.store.case_folder import repeatable
    from privbench.store.layout import RECORD

    with case_at(row, output, everything=True) as (path, name):
        written = Record.load(path / RECORD)
        if written.case_id != written.case.identity:
            raise UserError(f"{name} was changed: its case has the hash {written.case.identity}, not {written.case_id}")
        record = repeatable(path, written)
    made = record.provenance
    where = ComputeOptions(devices=tuple(resolve_devices(device)))
    display = (QuietProgress if quiet else PlainProgress)(notes_console(), defense_label)
    threads = cpu_threads(made.threads, record.case.victim.model.image_size)
    with tempfile.TemporaryDirectory(prefix="privbench-verify-") as scratch, display as listener, threads:
        checks, equal = compute(
            record,
            scratch=Path(scratch),
            compute=where,
            suites=Suites(lpips_weights, download=download),
            listener=listener,
            factor=tolerance,
        )
    results_console().print(checks_table(record, checks, defense_label(record.case)))
    click.echo(
        f"recorded with privbench {made.version}, torch {made.torch}, {made.device}, threads {made.threads}; "
        f"here torch {torch.__version__}, threads {made.threads}"
    )
    wrong = [check.metric for check in checks if check.holds is False]
    if wrong:
        click.echo(f"does not hold: {', '.join(wrong)}")
        raise click.exceptions.Exit(1)
    click.echo("holds, equal to the last bit" if equal else "holds within the tolerance")
