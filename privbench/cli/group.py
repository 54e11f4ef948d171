"""A click group whose commands are imported when they are used, and whose errors are one line each."""

import difflib
import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import click

from privbench.cli.at_work import at_work
from privbench.computing.interrupt import Interrupted, interruptible

__all__ = ["LazyGroup", "OneLineError"]

_SILENT = frozenset({"-h", "--help", "--quiet"})
"""With these a command answers at once, or says nothing."""


class OneLineError(click.ClickException):
    """`Error: ...` on one line of stderr, exit code 2."""

    exit_code = 2


class BrokenError(click.ClickException):
    """`Error: ...` on one line of stderr, exit code 1: a fault of code, not of what was given."""

    exit_code = 1


class LazyGroup(click.Group):
    """A group of commands known by name, place and summary.

    Args:
        commands_at: Command name to `module:attribute` and the line that the group's help shows.
        arguments: As `click.Group` takes them.
    """

    def __init__(self, *, commands_at: Mapping[str, tuple[str, str]], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._commands_at = commands_at

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, without an import."""
        return list(self._commands_at)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports a command."""
        if cmd_name not in self._commands_at:
            return None
        module, _, attribute = self._commands_at[cmd_name][0].partition(":")
        return cast(click.Command, getattr(importlib.import_module(module), attribute))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command that the first argument names; says near misses where there is none."""
        given = args[0]
        if given not in self._commands_at and not given.startswith("-"):
            near = difflib.get_close_matches(given, self._commands_at, n=2, cutoff=0.5)
            hint = f" did you mean {' or '.join(near)}?" if near else ""
            ctx.fail(f"unknown command '{given}';{hint} accepted: {', '.join(self._commands_at)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of commands, without an import."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self._commands_at.items()])

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parses the group's own options, and says first that something happens."""
        if args and args[0] in self._commands_at and _SILENT.isdisjoint(args):
            at_work()
        with _one_line_errors():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Parses and runs a command; a signal ends it in whatever phase it is, with the code that a shell expects."""
        with interruptible():
            try:
                with _one_line_errors():
                    return super().invoke(ctx)
            except KeyboardInterrupt as stop:
                raise click.exceptions.Exit(128 + (stop.number if isinstance(stop, Interrupted) else 2)) from None


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        from privbench.core.errors import shortened

        path = error.ctx.command_path if error.ctx else "privbench"
        raise OneLineError(f"{shortened(error.format_message()).rstrip('.')} (try '{path} --help')") from None
    except (BrokenPipeError, click.ClickException):
        raise
    except OSError as error:
        # No room, no descriptor, a name that is too long, a closed terminal: nothing that a traceback would explain.
        where = f"{error.filename}: " if error.filename else ""
        raise OneLineError(f"{where}{error.strerror or error}"[:400]) from None
    except ValueError as error:
        from privbench.core.errors import UserError

        if isinstance(error, UserError):
            raise OneLineError(str(error)) from None
        raise
    except RuntimeError as error:
        from privbench.core.errors import AttackError, shortened

        if isinstance(error, AttackError) and not os.environ.get("PRIVBENCH_TRACEBACK"):
            raise BrokenError(f"{shortened(str(error))} (PRIVBENCH_TRACEBACK=1 shows where)") from None
        raise
