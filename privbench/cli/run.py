"""`privbench run`: attack private images under one or several defenses, score what comes back, show it."""

from pathlib import Path
from typing import Any

import click

from privbench.cli.grouped import GroupedCommand
from privbench.cli.options import case_options, log_option, machine_options, trunk_options
from privbench.resolving.options import OPTIONS

__all__ = ["run"]

_FOLDER_OF_RUNS = str(Path("results") / "runs")
_ATTACKER = ("attack", "preset", "labels", "adversary", "training", "server")

# The first character keeps click from filling the lines.
_EXAMPLES = """\b
Examples:
  privbench run --defense mjp
  privbench run --defense none,no-pe,naive-shuffle,mjp
  privbench run --attack standard --defense naive-shuffle
  privbench run --attack closed-form,subspace --defense none,mjp --adversary aware
  privbench run --defense mjp:mask_ratio=0.5 --adversary oracle --set attack.steps=300
  privbench run --config results/runs/CASE/case.yaml --seed 1
"""


_GROUPS = {
    "What is attacked": (*(name for name in OPTIONS if name not in _ATTACKER), "config", "settings"),
    "By whom": _ATTACKER,
    "How it is computed": ("device", "compile", "group", "precision", "threads", "checkpoint_interval"),
    "Where results go": ("output", "scratch", "force", "dry_run", "quiet", "live", "log"),
}


@click.command(cls=GroupedCommand, groups=_GROUPS, epilog=_EXAMPLES)
@case_options
@trunk_options
@machine_options
@click.option(
    "--output",
    default=_FOLDER_OF_RUNS,
    show_default=True,
    help="Folder of all cases, or its URL (s3://, sftp://, ...).",
)
@click.option("--scratch", type=click.Path(path_type=Path), help="Working folder for a URL.  [default: in the user's cache]")
@click.option("--config", help="A case to start from: case.yaml, record.json, folder or PACK/CASE; other options change it.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any field of the case, such as attack.steps=300; repeatable."
)
@click.option("--isolate", is_flag=True, help="Run attacks in a process of their own, from a saved observation.")
@click.option("--force", is_flag=True, help="Compute finished cases again.")
@click.option("--dry-run", is_flag=True, help="Print the resolved cases as YAML and where they would go; compute nothing.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@log_option
@click.option("--live", is_flag=True, help="Keep a page in the case's folder that shows the attack while it runs.")
def run(
    output: str,
    scratch: Path | None,
    config: str | None,
    settings: tuple[str, ...],
    isolate: bool,
    force: bool,
    dry_run: bool,
    quiet: bool,
    live: bool,
    **options: Any,
) -> None:
    """Attack private images under one or several defenses and score what comes back.

    A finished case is not computed again, and an interrupted one continues: repeat the same command.
    """
    from privbench import api
    from privbench.cli.console import notes_console
    from privbench.cli.results_shown import show_plan, show_results

    place = api.store_at(output, scratch)
    try:
        what = {name: options.pop(name) for name in api.CASE_OPTIONS} | {"config": config, "settings": settings}
        if dry_run:
            show_plan(api.plan(output=place, **what))
            return
        from privbench.cli.progress import display

        with display(notes_console(), quiet=quiet) as listener:
            results = api.run(output=place, force=force, isolate=isolate, live=live, listener=listener, **what, **options)
        show_results(results)
    except KeyboardInterrupt:
        repeat = "repeat the command without --force" if force else "repeat the command"
        click.echo(f"Interrupted: what is done is kept in {place}; {repeat} to continue", err=True)
        raise
