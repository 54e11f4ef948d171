"""An option is written once: what Python, the command line, `--set` and a study take follows from its one line."""

from collections.abc import MutableMapping
from typing import Annotated, Literal, cast

import click
import pytest
from click.testing import CliRunner

from privbench.cli.options import case_options
from privbench.core import ThreatModel
from privbench.resolving import options, resolve
from privbench.resolving.options import Option, RunOptions
from privbench.resolving.resolve import resolve_cases

CASE = {"defense": "none", "attack": "test-walk", "model": "test-vit", "weights": "random", "limit": 1}


class WithWeather(RunOptions, total=False):
    """The options with one more line."""

    weather: Annotated[Literal["fair", "foul"] | None, Option("threat_model.weather", "Whether it rains.  [default: fair]")]


class Weathered(ThreatModel):
    """The threat model with one more field."""

    weather: Literal["fair", "foul"] = "fair"


@pytest.fixture
def weather(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the line and the field had been written."""
    monkeypatch.setattr(options, "RunOptions", WithWeather)
    for known, found in ((options.OPTIONS, options._options()), (options.SETTINGS, {"threat_model.weather": "weather"})):
        for name, value in found.items():
            monkeypatch.setitem(cast(MutableMapping[str, object], known), name, value)
    monkeypatch.setattr(resolve, "ThreatModel", Weathered)


@pytest.mark.usefixtures("weather")
def test_a_new_line_is_a_keyword_a_setting_and_an_option_with_its_words_and_help() -> None:
    @click.command()
    @case_options
    def command(**given: str | None) -> None:
        click.echo(given["weather"])

    assert CliRunner().invoke(command, ["--weather", "foul"]).output == "foul\n"
    said = CliRunner().invoke(command, ["--help"]).output
    assert "--weather [fair|foul]" in said
    assert "Whether it rains." in said
    assert CliRunner().invoke(command, ["--weather", "windy"]).exit_code == 2
    for given in ({"weather": "foul"}, {"settings": ("threat_model.weather=foul",)}):
        (case,) = resolve_cases(cast(RunOptions, {**CASE, **given}))
        assert cast(Weathered, case.threat_model).weather == "foul"
    (case,) = resolve_cases(cast(RunOptions, CASE))
    assert cast(Weathered, case.threat_model).weather == "fair"
