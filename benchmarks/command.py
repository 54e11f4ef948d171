"""Commands of the benchmarks, in which what the user got wrong is one line and exit code 2, as in `privbench` itself."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from privbench.cli.group import OneLineError
from privbench.core import UserError

__all__ = ["Benchmark", "BenchmarkGroup", "one_line"]


class Benchmark(click.Command):
    """One benchmark."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs it."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise OneLineError(str(error)) from None


class BenchmarkGroup(click.Group):
    """Several benchmarks of one kind."""

    command_class = Benchmark


def one_line(main: Callable[[], None]) -> Callable[[], None]:
    """The same for a `main` that reads its arguments itself."""

    @wraps(main)
    def run() -> None:
        try:
            main()
        except UserError as error:
            print(f"Error: {error}", file=sys.stderr)
            raise SystemExit(2) from None

    return run
