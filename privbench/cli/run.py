"""`privbench run`: attack private images under one or several defenses, score what comes back, show it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from privbench.cli.numeric import Number, WholeNumber
from privbench.cli.place import config_at, results_place, writable

if TYPE_CHECKING:
    from privbench.store.base import Store

__all__ = ["run"]

_FOLDER_OF_RUNS = Path("results") / "runs"

# The first character keeps click from filling the lines.
_EXAMPLES = """\b
Examples:
  privbench run --defense mjp
  privbench run --defense none,no-pe,naive-shuffle,mjp
  privbench run --attack standard --defense naive-shuffle
  privbench run --defense mjp:mask_ratio=0.5 --adversary oracle --set attack.steps=300
  privbench run --config results/runs/CASE/case.yaml --seed 1
"""


def _group_size(context: click.Context, option: click.Parameter, value: str) -> int | None:
    """None for `auto`."""
    if value == "auto":
        return None
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"'{value}' is neither 'auto' nor a number of at least 1.", context, option)
    return int(value)


@click.command(epilog=_EXAMPLES)
@click.option(
    "--defense", help="Defense, with parameters NAME:KEY=VALUE,...; A+B composes, A,B runs one after another.  [default: mjp]"
)
@click.option(
    "--attack",
    help="Attack, with parameters NAME:KEY=VALUE,..., or an ensemble: standard, fast, rand.  [default: gradvit]",
)
@click.option("--preset", help="Named parameter set of the attack.  [default: its first]")
@click.option("--model", help="Victim: an embedded or timm model.  [default: vit_mini_patch4_32]")
@click.option("--weights", help="embedded, random, pretrained (timm's hub), or a file.  [default: embedded]")
@click.option("--data", help="Private images: a data set, folder or file.  [default: photos]")
@click.option("--split", help="Part of the data set.  [default: test]")
@click.option("--limit", type=int, help="How many images.  [default: 4, in whole batches]")
@click.option("--indices", help="Which images, such as 0,3,5-7.")
@click.option("--batch-size", type=int, help="Images per client update.  [default: 1]")
@click.option(
    "--labels",
    type=click.Choice(["recovered", "known"]),
    help="Whether the attacker must find the labels.  [default: recovered]",
)
@click.option("--model-mode", type=click.Choice(["eval", "train"]), help="Mode of the client's model.  [default: eval]")
@click.option(
    "--adversary",
    type=click.Choice(["unaware", "aware", "oracle"]),
    help="What the attacker knows of the defense.  [default: unaware; of an ensemble: aware]",
)
@click.option("--local", help="Local training, such as sgd:steps=5,lr=0.01: a weight delta is sent.  [default: one gradient]")
@click.option(
    "--training",
    type=click.Choice(["known", "hidden"]),
    help="Whether the attacker is told how the client trained.  [default: known]",
)
@click.option("--lpips-net", type=click.Choice(["alex", "vgg", "squeeze"]), help="Trunk of LPIPS.  [default: alex]")
@click.option("--lpips-weights", type=click.Path(path_type=Path), help="File with the trunk's weights.")
@click.option("--download/--no-download", default=True, show_default=True, help="Fetch the trunk where it is not cached.")
@click.option("--seed", type=int, help="Seed of every random choice.  [default: 0]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda (all of them) or cuda:INDEX.")
@click.option(
    "--compile",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Compile the optimisation step: auto where it saves more time than it takes.",
)
@click.option(
    "--group",
    callback=_group_size,
    metavar="[auto|N]",
    default="auto",
    show_default=True,
    help="Client batches attacked together: auto, what suits attack and device, or a number.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "tf32"]),
    default="fp32",
    show_default=True,
    help="Of matrix products in the attack on CUDA.",
)
@click.option(
    "--threads", type=WholeNumber(min=1), help="CPU threads.  [default: 1 for inputs up to 64 pixels, else torch's choice]"
)
@click.option(
    "--output",
    type=results_place,
    default=_FOLDER_OF_RUNS,
    show_default=True,
    help="Folder of all cases, or its URL (s3://, sftp://, ...).",
)
@click.option("--scratch", type=click.Path(path_type=Path), help="Working folder for a URL.  [default: in the user's cache]")
@click.option("--config", help="A resolved case.yaml to start from; other options change it.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any field of the case, such as attack.steps=300; repeatable."
)
@click.option("--force", is_flag=True, help="Compute finished cases again.")
@click.option("--dry-run", is_flag=True, help="Print the resolved cases as YAML and where they would go; compute nothing.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@click.option("--checkpoint-interval", type=Number(min=0), default=20.0, show_default=True, help="Seconds between checkpoints.")
def run(
    lpips_weights: Path | None,
    download: bool,
    device: str,
    compile: Literal["auto", "on", "off"],  # noqa: A002 (the option's name)
    group: int | None,
    precision: Literal["fp32", "tf32"],
    threads: int | None,
    output: "Store",
    scratch: Path | None,
    config: str | None,
    force: bool,
    dry_run: bool,
    quiet: bool,
    checkpoint_interval: float,
    **options: Any,
) -> None:
    """Attack private images under one or several defenses and score what comes back.

    A finished case is not computed again, and an interrupted one continues: repeat the same command.
    """
    from privbench.cli.device import cpu_threads, resolve_devices
    from privbench.cli.session import Session, print_cases
    from privbench.core import ComputeOptions
    from privbench.runner.execute import Suites
    from privbench.runner.interrupt import Interrupted
    from privbench.runner.resolve import RunOptions, resolve_cases

    try:
        devices = resolve_devices(device)
        output = writable(output, scratch)
        with config_at(config) as file:
            cases = resolve_cases(RunOptions(config=file, **options))
        if dry_run:
            print_cases(cases, output)
            return
        session = Session(
            cases,
            output=output,
            devices=devices,
            suites=Suites(lpips_weights, download=download),
            group=group,
            compute=ComputeOptions(compile=compile, precision=precision),
        )
        with cpu_threads(threads, max(case.victim.model.image_size for case in cases)):
            records = session.compute(force=force, quiet=quiet, checkpoint_interval=checkpoint_interval)
        session.show(records)
    except KeyboardInterrupt as stop:
        repeat = "repeat the command without --force" if force else "repeat the command"
        click.echo(f"Interrupted: what is done is kept in {output}; {repeat} to continue", err=True)
        # What a shell reports of a process that such a signal ended.
        raise click.exceptions.Exit(128 + (stop.number if isinstance(stop, Interrupted) else 2)) from None
