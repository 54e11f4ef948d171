"""`privbench sweep`: all cases of a study, resumable, in shards, on several processes or machines."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import privbench
from privbench.cli.numeric import THREADS, Number, WholeNumber
from privbench.cli.options import log_option

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from privbench.api import LoadedStudy
    from privbench.api.watching import StudyOutcome, SweepListener, SweepProgress

__all__ = ["sweep"]

_EXAMPLES = """\b
Examples:
  privbench sweep study.yaml
  privbench sweep study.yaml --limit 2 --budget 2h
  privbench sweep study.yaml --shard 2/4
  privbench sweep study.yaml --launcher ray --address auto --output /shared/runs
  privbench sweep study.yaml --output s3://bucket/runs
"""

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _budget(context: click.Context, option: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,12}(?:\.\d+)?)\s*([smhd]?)", value.strip())
    if not found or float(found[1]) <= 0:
        raise click.BadParameter(f"'{value}' is no time; accepted: 90s, 30m, 2h or 1d.", context, option)
    return float(found[1]) * _UNITS[found[2]]


def _shard(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", value.strip())
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise click.BadParameter(f"'{value}' is no shard; accepted: I/N with I from 1 to N, such as 2/4.", context, option)
    return int(found[1]), int(found[2])


@click.command(epilog=_EXAMPLES)
@click.argument("study", type=click.Path(path_type=Path))
@click.option(
    "--output",
    help="Folder of all cases, or its URL (s3://, gs://, sftp://, ...).  [default: results/runs/NAME, the study's name]",
)
@click.option("--scratch", type=click.Path(path_type=Path), help="Working folder for a URL.  [default: in the user's cache]")
@click.option("--shard", callback=_shard, metavar="I/N", help="Compute every N-th case from the I-th on.")
@click.option("--budget", callback=_budget, metavar="TIME", help="Stop after this time (90s, 30m, 2h), at a checkpoint.")
@click.option("--limit", type=WholeNumber(min=1), help="So many images in every case, one batch at least.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of every case, whatever the file says; repeatable."
)
@click.option("--retry-failed", is_flag=True, help="Try failed cases again.")
@click.option(
    "--launcher",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Processes of this machine, or tasks of a Ray cluster (extra ray) whose nodes share the output folder or URL.",
)
@click.option("--address", help="Of the Ray cluster, such as auto.  [default: one that is started on this machine]")
@click.option("--jobs", type=WholeNumber(min=1), help="Local processes.  [default: one per CUDA device, one on a CPU]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda (all of them) or cuda:INDEX.")
@click.option("--threads", type=THREADS, default=1, show_default=True, help="CPU threads of each process.")
@click.option(
    "--compile",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Compile the optimisation step: auto where it saves more time than it takes.",
)
@click.option("--lpips-weights", type=click.Path(path_type=Path), help="File with the trunk's weights.")
@click.option("--download/--no-download", default=True, show_default=True, help="Fetch the trunk where it is not cached.")
@click.option("--checkpoint-interval", type=Number(min=0), default=20.0, show_default=True, help="Seconds between checkpoints.")
@log_option
@click.option("--dry-run", is_flag=True, help="List the cases and where they stand; compute nothing.")
def sweep(
    study: Path,
    output: str | None,
    scratch: Path | None,
    shard: tuple[int, int] | None,
    settings: tuple[str, ...],
    limit: int | None,
    dry_run: bool,
    **how: Any,
) -> None:
    """Compute all cases of STUDY, a YAML file of axes: every combination is a case, the same case is computed once.

    Repeat the command to continue: what is finished stays. Several sweeps on one machine may work on one study, and several
    machines share it by --shard or by Ray. A case that cannot be computed is kept with the reason; --retry-failed tries again.

    With a URL, cases are computed in a working folder of this machine and published when they are finished, the record last.
    """
    from privbench.api import store_at
    from privbench.api.studies import require_launcher, require_loggers

    require_launcher(how["launcher"])
    require_loggers(how["log"])
    loaded = None
    try:
        place = None if output is None else store_at(output, scratch)
        loaded = privbench.load_study(study, place, shard=shard, limit=limit, settings=settings)
        if dry_run:
            _list(loaded)
            return
        outcome = loaded.run(_watch, **how)
    except KeyboardInterrupt:
        if loaded is None:
            click.echo("interrupted; repeat the command to continue")
        else:
            _report(loaded.outcome(), "interrupted")
        raise
    _report(outcome, "the budget is used" if outcome.over_budget else None)
    raise click.exceptions.Exit(1 if outcome.failed or outcome.unreadable else 0)


def _watch(progress: "SweepProgress", workers: int) -> "AbstractContextManager[SweepListener]":
    from privbench.cli.console import notes_console
    from privbench.cli.sweep_progress import sweep_progress

    return sweep_progress(notes_console(), progress, workers=workers)


def _list(loaded: "LoadedStudy") -> None:
    for one in loaded.status():
        click.echo(f"{one.state:8} {loaded.place / one.name}")
    for line in loaded.study.unreadable:
        click.echo(f"unreadable: {line}")
    click.echo(f"{len(loaded.study.cases)} cases of {loaded.study.combinations} combinations")


def _report(outcome: "StudyOutcome", stopped: str | None) -> None:
    for folder, reason in outcome.failed.items():
        click.echo(f"failed: {folder}: {reason}")
    for line in outcome.unreadable:
        click.echo(f"unreadable: {line}")
    words = [f"{outcome.done} of {outcome.cases} cases done"]
    if outcome.failed:
        words.append(f"{len(outcome.failed)} failed (--retry-failed tries them again)")
    if stopped:
        words.append(f"{stopped}; repeat the command to continue")
    click.echo(f"{', '.join(words)}; {outcome.place}")
    if outcome.done and not stopped:
        click.echo(f"next: privbench leaderboard {outcome.place}")
