"""A command whose `--help` lists its options in groups: what is attacked, how it is computed, where results go."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

__all__ = ["GroupedCommand"]


class GroupedCommand(click.Command):
    """Options under headings.

    Args:
        groups: Heading to the names of its options; the others stand last, under "Other options".
        arguments: As `click.Command` takes them.
    """

    def __init__(self, *arguments: Any, groups: Mapping[str, Sequence[str]], **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._groups = groups

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes each group in the order of the command's options."""
        named = {name for names in self._groups.values() for name in names}
        groups = {**self._groups, "Other options": [str(one.name) for one in self.get_params(ctx) if one.name not in named]}
        for heading, names in groups.items():
            lines = [one.get_help_record(ctx) for one in self.get_params(ctx) if one.name in names]
            # To click a range without ends is one below nothing.
            shown = [(name, text.replace("  [x<=None]", "")) for name, text in filter(None, lines)]
            if shown:
                with formatter.section(heading):
                    formatter.write_dl(shown)
