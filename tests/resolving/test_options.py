"""An option is written once: what Python, the command line, `--set` and a study take follows from its one line."""

from collections.abc import MutableMapping
from typing import Annotated, Literal, cast

import click
import pytest
from click.testing import CliRunner

from privbench.cli.options import case_options
from privbench.core import Case, ThreatModel
from privbench.resolving import options, resolve
from privbench.resolving.options import Option, RunOptions
from privbench.resolving.resolve import resolve_cases

CASE = {"defense": "none", "attack": "test-walk", "model": "test-vit", "weights": "random", "limit": 1}


class WithWeather(RunOptions, total=False):
    """The options with two more lines."""

    weather: Annotated[Literal["fair", "foul"] | None, Option("threat_model.weather", "Whether it rains.  [default: fair]")]
    degrees: Annotated[int | str | None, Option("degrees", "How warm it is.  [default: 20]")]


class Weathered(ThreatModel):
    """The threat model with one more field."""

    weather: Literal["fair", "foul"] = "fair"


class WarmCase(Case):
    """A case with one more field."""

    degrees: int = 20


@pytest.fixture
def weather(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the lines and the fields had been written."""
    settings = {"threat_model.weather": "weather", "degrees": "degrees"}
    monkeypatch.setattr(options, "RunOptions", WithWeather)
    for known, found in ((options.OPTIONS, options._options()), (options.SETTINGS, settings)):
        for name, value in found.items():
            monkeypatch.setitem(cast(MutableMapping[str, object], known), name, value)
    monkeypatch.setattr(resolve, "ThreatModel", Weathered)
    monkeypatch.setattr(resolve, "Case", WarmCase)


def resolved(**given: object) -> tuple[str, int]:
    (case,) = resolve_cases(cast(RunOptions, {**CASE, **given}))
    return cast(Weathered, case.threat_model).weather, cast(WarmCase, case).degrees


@pytest.mark.usefixtures("weather")
def test_a_new_line_is_a_keyword_and_a_setting_of_its_case() -> None:
    assert resolved() == ("fair", 20)
    assert resolved(weather="foul", degrees=3) == ("foul", 3)
    assert resolved(settings=("threat_model.weather=foul", "degrees=3")) == ("foul", 3)


@pytest.mark.usefixtures("weather")
def test_a_new_line_is_an_option_of_the_command_line_with_its_words_and_help() -> None:
    @click.command()
    @case_options
    def command(**given: str | int | None) -> None:
        click.echo(f"{given['weather']} {given['degrees']}")

    assert CliRunner().invoke(command, ["--weather", "foul", "--degrees", "3"]).output == "foul 3\n"
    said = CliRunner().invoke(command, ["--help"]).output
    assert "--weather [fair|foul]" in said
    assert "Whether it rains." in said
    for wrong in (("--weather", "windy"), ("--degrees", "warm")):
        assert CliRunner().invoke(command, list(wrong)).exit_code == 2
