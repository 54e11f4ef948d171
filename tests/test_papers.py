"""docs/papers.md names what exists: components and parameters of `privbench list`, options of commands, modules."""

import importlib.util
import re
from pathlib import Path

import click
import pytest

from privbench.api import catalogue
from privbench.cli import main

PAGE = (Path(__file__).parents[1] / "docs" / "papers.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| what")]
NAMED = sorted(set(re.findall(r"`([^`]+)`", PAGE)))
NO_COMPONENTS = {"paper"}
"""Presets, which stand behind the name of their attack."""
KINDS: tuple[catalogue.Kind, ...] = ("attacks", "defenses", "models", "metrics")


def components() -> dict[str, set[str]]:
    return {entry.name: {one.name for one in entry.parameters} for kind in KINDS for entry in catalogue.components(kind)}


def test_each_paper_has_a_table_of_four_columns() -> None:
    assert len(re.findall(r"^## ", PAGE, re.MULTILINE)) == 4
    assert PAGE.count("| what it has | here, exact | here, with a difference | not here, and why |") == 4
    assert all(row.count("|") == 5 for row in ROWS)
    # What is here neither exactly nor otherwise says why not.
    for row in ROWS:
        assert any(cell.strip() for cell in row.split("|")[2:5]), row


@pytest.mark.parametrize("name", [name for name in NAMED if " " not in name and name not in NO_COMPONENTS])
def test_a_name_is_one_of_the_list(name: str) -> None:
    component, _, parameters = name.partition(":")
    known = components()
    assert component in known
    for pair in filter(None, parameters.split(",")):
        assert pair.partition("=")[0] in known[component]


@pytest.mark.parametrize("text", [name for name in NAMED if name.startswith("privbench ")])
def test_a_command_has_the_options_that_are_named(text: str) -> None:
    _, name, *options = text.split()
    if name.startswith("--"):
        return
    command = main.get_command(click.Context(main), name)
    assert command is not None
    there = {option for parameter in command.params for option in parameter.opts}
    assert {option for option in options if option.startswith("--")} <= there


@pytest.mark.parametrize("text", [name for name in NAMED if name.startswith("python -m ")])
def test_a_module_is_there(text: str) -> None:
    assert importlib.util.find_spec(text.split()[2]) is not None


def test_values_that_a_parameter_is_shown_with_are_accepted() -> None:
    from privbench.core import resolve_defense

    for name in NAMED:
        if "=" in name and " " not in name:
            resolve_defense(name)
