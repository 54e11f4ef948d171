"""The options of a case and of the machine as click options, made of `resolving.options`, where each is written once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from privbench.cli.numeric import THREADS, Number, WholeNumber
from privbench.resolving.options import OPTIONS, choices_of, is_whole_number

__all__ = ["case_options", "log_option", "machine_options", "trunk_options"]

Command = TypeVar("Command", bound=Callable[..., Any])


def case_options(command: Command) -> Command:
    """Adds an option for each of `resolving.options`; None where the user says nothing."""
    for name, option in reversed(list(OPTIONS.items())):
        choices = choices_of(name)
        kind = click.Choice(choices) if choices else WholeNumber() if is_whole_number(name) else click.STRING
        command = click.option(f"--{name.replace('_', '-')}", name, type=kind, help=option.help)(command)
    return command


def trunk_options(command: Command) -> Command:
    """Adds the options for the weights of LPIPS."""
    command = click.option(
        "--download/--no-download", default=True, show_default=True, help="Fetch the trunk of LPIPS where it is not cached."
    )(command)
    return click.option("--lpips-weights", type=click.Path(path_type=Path), help="File with the trunk's weights.")(command)


def log_option(command: Command) -> Command:
    """Adds the option for experiment trackers, a tuple of names."""
    return click.option(
        "--log",
        callback=_names,
        metavar="NAME,...",
        help="Report settings, losses, guesses and scores to tensorboard, wandb, mlflow or a plug-in's logger.",
    )(command)


def _names(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (value or "").split(",") if name.strip())


def machine_options(command: Command) -> Command:
    """Adds the options that say where and how attacks are computed, and never what."""
    for option in reversed(_MACHINE):
        command = option(command)
    return command


def _group_size(context: click.Context, option: click.Parameter, value: str) -> int | None:
    """None for `auto`."""
    if value == "auto":
        return None
    if not (value.isascii() and value.isdecimal() and len(value) < 10) or int(value) < 1:
        raise click.BadParameter(f"'{value[:100]}' is neither 'auto' nor a number of at least 1.", context, option)
    return int(value)


_MACHINE = (
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda (all of them) or cuda:INDEX."),
    click.option(
        "--compile",
        type=click.Choice(["auto", "on", "off"]),
        default="auto",
        show_default=True,
        help="Compile the optimisation step: auto where it saves more time than it takes.",
    ),
    click.option(
        "--group",
        callback=_group_size,
        metavar="[auto|N]",
        default="auto",
        show_default=True,
        help="Client batches attacked together: auto, what suits attack and device, or a number.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["fp32", "tf32"]),
        default="fp32",
        show_default=True,
        help="Of matrix products in the attack on CUDA.",
    ),
    click.option(
        "--threads",
        type=THREADS,
        help="CPU threads; equal results need equal threads.  [default: 1 for inputs up to 64 pixels, else torch's choice]",
    ),
    click.option(
        "--checkpoint-interval", type=Number(min=0), default=20.0, show_default=True, help="Seconds between checkpoints."
    ),
)
