"""`privbench sweep`: all cases of a study, resumable, in shards, on several processes or machines."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from privbench.cli.numeric import THREADS, Number, WholeNumber
from privbench.cli.place import results_place, writable

if TYPE_CHECKING:
    from privbench.store.base import Store
    from privbench.sweep.study import Study

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
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", value.strip())
    if not found or float(found[1]) <= 0:
        raise click.BadParameter(f"'{value}' is no time; accepted: 90s, 30m, 2h or 1d.", context, option)
    return float(found[1]) * _UNITS[found[2]]


def _shard(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    found = re.fullmatch(r"(\d+)/(\d+)", value.strip())
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise click.BadParameter(f"'{value}' is no shard; accepted: I/N with I from 1 to N, such as 2/4.", context, option)
    return int(found[1]), int(found[2])


@click.command(epilog=_EXAMPLES)
@click.argument("study", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=results_place,
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
@click.option("--dry-run", is_flag=True, help="List the cases and where they stand; compute nothing.")
def sweep(
    study: Path,
    output: "Store | None",
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
    from privbench.runner.interrupt import Interrupted, interruptible

    try:
        # From the first second on: what is not yet done is continued in the same way.
        with interruptible():
            _sweep(study, output, shard, settings, limit, dry_run, **how)
    except Interrupted as stop:
        click.echo("interrupted; repeat the command to continue")
        raise click.exceptions.Exit(128 + stop.number) from None


def _sweep(
    study: Path,
    output: "Store | None",
    shard: tuple[int, int] | None,
    settings: tuple[str, ...],
    limit: int | None,
    dry_run: bool,
    **how: Any,
) -> None:
    from privbench.core import UserError
    from privbench.core.packages import require_packages
    from privbench.sweep.study import read_study

    if how["launcher"] == "ray":
        require_packages("--launcher ray", ["ray"], "ray")
    overrides: dict[str, Any] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not (key.strip() and equals and value.strip()):
            raise UserError(f"cannot read --set '{text}'; accepted: KEY=VALUE, such as seed=1")
        overrides[key.strip()] = value.strip()
    if limit is not None:
        overrides |= {"limit": limit, "indices": None}
    found = read_study(study, overrides)
    if shard is not None:
        found = found.shard(*shard)
        if not found.cases:
            raise UserError(f"shard {shard[0]}/{shard[1]} of {study} has no case; choose fewer shards")
    folder = output or results_place(Path("results") / "runs" / found.name)
    if dry_run:
        _list(found, folder)
        return
    _compute(found, folder, **how)


def _list(study: "Study", folder: "Store") -> None:
    from privbench.store.case_folder import CaseFolder
    from privbench.sweep.status import state_of

    with folder.open(everything=False) as local:
        for case in study.cases:
            click.echo(f"{state_of(CaseFolder(local, case))[0]:8} {folder / case.folder}")
    for line in study.unreadable:
        click.echo(f"unreadable: {line}")
    click.echo(f"{len(study.cases)} cases of {study.combinations} combinations")


def _compute(
    study: "Study",
    output: "Store",
    *,
    scratch: Path | None,
    budget: float | None,
    retry_failed: bool,
    launcher: Literal["local", "ray"],
    address: str | None,
    jobs: int | None,
    device: str,
    threads: int,
    compile: Literal["auto", "on", "off"],  # noqa: A002 (the option's name)
    lpips_weights: Path | None,
    download: bool,
    checkpoint_interval: float,
) -> None:
    import torch

    from privbench.cli.console import notes_console
    from privbench.cli.sweep_progress import sweep_progress
    from privbench.core import ComputeOptions, UserError
    from privbench.plots.drawing import draw_case
    from privbench.runner.interrupt import Interrupted
    from privbench.runner.machine import resolve_devices
    from privbench.store.files import write_locked
    from privbench.store.local import FolderStore
    from privbench.sweep.progress import SweepProgress
    from privbench.sweep.status import CaseState
    from privbench.sweep.work import SweepOptions
    from privbench.sweep.workers import BudgetUsedError, in_processes, run_inline

    if address is not None and launcher != "ray":
        raise UserError("--address is of a Ray cluster; add --launcher ray")
    devices = [str(one) for one in resolve_devices(device)] if launcher == "local" else [device.replace("auto", "cpu")]
    output = writable(output, scratch)
    if launcher == "ray" and isinstance(output, FolderStore):
        output = FolderStore(output.path.resolve())
    plan = f"study--{study.name}--{study.identity}.json"
    if isinstance(output, FolderStore):
        write_locked(output.path, plan, study.plan().encode())
    else:
        output.write({plan: study.plan().encode()})
    if retry_failed:
        for case in study.cases:
            output.forget_failure(case)
    with output.open(everything=False) as local:
        progress = SweepProgress(study.cases, local)
    options = SweepOptions(
        store=output,
        compute=ComputeOptions(
            devices=(torch.device(devices[0]),), compile=compile, threads=threads, checkpoint_interval=checkpoint_interval
        ),
        lpips_weights=lpips_weights,
        download=download,
        draw=draw_case,
    )
    todo = [case for case in study.cases if progress.states[case.identity] not in {CaseState.DONE, CaseState.FAILED}]
    count = min(jobs or len(devices), max(len(todo), 1))
    if str(output).startswith("memory://") and (launcher == "ray" or count > 1):
        raise UserError(f"{output} is the memory of one process; use --jobs 1, or another --output")
    stopped: str | None = None
    code = 1 if study.unreadable else 0
    try:
        with sweep_progress(notes_console(), progress, workers=count) as listener:
            if launcher == "ray":
                from privbench.sweep.cluster import on_ray

                on_ray(todo, options, listener, address=address, budget=budget)
            elif count == 1:
                run_inline(todo, options, listener, budget=budget)
            else:
                places = [devices[place % len(devices)] for place in range(count)]
                in_processes(todo, options, listener, devices=places, budget=budget)
    except BudgetUsedError:
        stopped = "the budget is used"
    except KeyboardInterrupt as stop:
        stopped = "interrupted"
        code = 128 + (stop.number if isinstance(stop, Interrupted) else 2)
    failed = _report(study, output, stopped)
    raise click.exceptions.Exit(code or (1 if failed else 0))


def _report(study: "Study", folder: "Store", stopped: str | None) -> int:
    """Says how a sweep ended; returns how many cases have failed."""
    from privbench.sweep.progress import SweepProgress
    from privbench.sweep.status import CaseState

    with folder.open(everything=False) as local:
        progress = SweepProgress(study.cases, local)
    for identity, reason in progress.reasons.items():
        click.echo(f"failed: {progress.cases[identity].folder}: {reason}")
    for line in study.unreadable:
        click.echo(f"unreadable: {line}")
    done, failed = progress.count(CaseState.DONE), progress.count(CaseState.FAILED)
    words = [f"{done} of {len(study.cases)} cases done"]
    if failed:
        words.append(f"{failed} failed (--retry-failed tries them again)")
    if stopped:
        words.append(f"{stopped}; repeat the command to continue")
    click.echo(f"{', '.join(words)}; {folder}")
    if done and not stopped:
        click.echo(f"next: privbench leaderboard {folder}")
    return failed
