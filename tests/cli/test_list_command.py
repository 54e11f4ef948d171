"""`privbench list` shows what the registries hold: names, one line each, parameters as they are declared."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from privbench.core import ATTACKS, DATASETS, DEFENSES, ENSEMBLES, LOGGERS, METRICS, MODELS, Registry

KINDS = {
    "attacks": ATTACKS,
    "ensembles": ENSEMBLES,
    "defenses": DEFENSES,
    "models": MODELS,
    "metrics": METRICS,
    "datasets": DATASETS,
    "loggers": LOGGERS,
}


def listed(privbench: Callable[..., Result], kind: str) -> dict[str, Any]:
    answer = privbench("list", kind, "--json")
    assert answer.exit_code == 0, answer.exception
    return {entry["name"]: entry for entry in json.loads(answer.stdout)}


@pytest.mark.parametrize(("kind", "registry"), KINDS.items())
def test_every_registered_name_is_listed_with_a_summary(
    kind: str, registry: Registry, privbench: Callable[..., Result]
) -> None:
    entries = listed(privbench, kind)
    assert sorted(entries) == registry.names()
    assert all(entry["summary"] and "\n" not in entry["summary"] for entry in entries.values())
    table = privbench("list", kind)
    assert table.exit_code == 0
    lines = table.stdout.splitlines()
    assert [line.split()[0] for line in lines[: len(entries)]] == registry.names()
    assert len(lines) <= len(entries) + 1


def test_parameters_are_listed_as_declared(privbench: Callable[..., Result]) -> None:
    entry = listed(privbench, "attacks")["test-walk"]
    assert (
        entry["summary"]
        == "A random walk of the pixels: slow on demand, checkpointed, and as random as an optimiser with restarts."
    )
    assert entry["parameters"] == [
        {"name": "steps", "type": "integer above 0", "default": 4, "required": False, "description": "Steps of the walk."},
        {
            "name": "pause",
            "type": "number from 0",
            "default": 0.0,
            "required": False,
            "description": "Seconds of sleep per step.",
        },
        {
            "name": "largest_batch",
            "type": "integer",
            "default": 64,
            "required": False,
            "description": "Larger batches are refused.",
        },
    ]
    assert entry["presets"] == {"short": {}, "long": {"steps": 60}}
    choices = listed(privbench, "attacks")["test-failing"]["parameters"][0]
    assert choices["type"] == "runtime | memory | float | pixels | loss | kill"


def test_the_table_shows_parameters_and_presets(privbench: Callable[..., Result]) -> None:
    shown = privbench("list", "attacks", "test-walk").stdout
    assert re.search(r"steps +4 +integer above 0 +Steps of the walk\.", shown)
    assert "preset long: steps=60" in shown


def test_a_name_shows_its_card_and_a_wrong_one_is_a_line(privbench: Callable[..., Result]) -> None:
    card = privbench("list", "attacks", "gradvit").stdout
    for words in ("GradViT: Gradient Inversion of Vision Transformers", "Limits.", "registration"):
        assert words in card
    wrong = privbench("list", "defenses", "mpj")
    assert wrong.exit_code == 2
    assert "unknown defense 'mpj'; did you mean mjp" in wrong.output
    assert wrong.output.count("\n") == 1


def test_defenses_say_what_they_guarantee(privbench: Callable[..., Result]) -> None:
    entries = listed(privbench, "defenses")
    assert all(entry["guarantee"].endswith(".") for entry in entries.values())
    assert "epsilon 4.729 at delta 1e-05" in entries["dpsgd"]["guarantee"]
    assert "Guarantee: Promises nothing." in privbench("list", "defenses", "none").stdout
    assert listed(privbench, "attacks")["gradvit"]["guarantee"] is None


@pytest.mark.parametrize("kind", ["attacks", "defenses"])
def test_every_built_in_parameter_says_what_it_does(kind: str, privbench: Callable[..., Result]) -> None:
    silent = [
        f"{entry['name']}.{parameter['name']}"
        for entry in listed(privbench, kind).values()
        for parameter in entry["parameters"]
        if not parameter["description"]
    ]
    assert silent == []
