"""`privbench check`: every rule catches a plug-in that breaks it, and one line says which."""

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn

from privbench.attacks.closed_form import ClosedForm
from privbench.cli import main
from privbench.core import (
    ATTACKS,
    DEFENSES,
    Attack,
    AttackerView,
    Defense,
    ModelInput,
    Observation,
    Progress,
    ProtectedInput,
    Reconstruction,
    UserError,
)
from privbench.core.registry import Registry
from tests.conformance import small_clients

__all__ = ["small_clients"]


class Tint(Defense):
    """Tints a batch in a random colour."""

    name: ClassVar[str] = "tint"

    def prepare_batch(self, model: nn.Module, batch: ModelInput, generator: torch.Generator) -> ProtectedInput:
        colour = 0.5 + 0.5 * torch.rand(3, 1, 1, generator=generator)
        return ProtectedInput(ModelInput(batch.images * colour), {"tint.colour": colour})

    def oracle(self, model: nn.Module, observation: Observation) -> AttackerView:
        return AttackerView(
            lambda given, known: ModelInput(given.images * known["tint.colour"]),
            {"tint.colour": observation.disclosed["tint.colour"]},
        )

    def guarantee(self) -> str:
        return "Hides the colours from whoever is not told the tint."


def leaving(model: nn.Module, batch: ModelInput, _generator: torch.Generator) -> ProtectedInput:
    return ProtectedInput(ModelInput(batch.images + 1))


def idle(model: nn.Module, batch: ModelInput, _generator: torch.Generator) -> ProtectedInput:
    return ProtectedInput(batch, {"tint.colour": torch.ones(3, 1, 1)})


def unseeded(model: nn.Module, batch: ModelInput, _generator: torch.Generator) -> ProtectedInput:
    colour = torch.rand(3, 1, 1)
    return ProtectedInput(ModelInput(batch.images * colour), {"tint.colour": colour})


def telling(model: nn.Module, batch: ModelInput, generator: torch.Generator) -> ProtectedInput:
    made = Tint().prepare_batch(model, batch, generator)
    return ProtectedInput(made.model_input, {**made.choices, "tint.all": batch.images})


def infinite(gradients: dict[str, Tensor], _generator: torch.Generator) -> dict[str, Tensor]:
    return {name: value / 0 for name, value in gradients.items()}


def in_place(gradients: dict[str, Tensor], _generator: torch.Generator) -> dict[str, Tensor]:
    return {name: value.mul_(2) for name, value in gradients.items()}


def forgetful(model: nn.Module, observation: Observation) -> AttackerView:
    return AttackerView()


def wrong_way(model: nn.Module, observation: Observation) -> AttackerView:
    told = Tint().oracle(model, observation)
    return AttackerView(told.transform_input, told.known, undo=lambda fed, known: fed * known["tint.colour"])


@pytest.fixture
def checked(small_clients: None) -> Iterator[Callable[..., Result]]:
    """Checks a component of the given class under a name, as the command does."""
    registered: list[tuple[Registry, str]] = []

    def check(component: type[Any]) -> Result:
        registry = ATTACKS if issubclass(component, Attack) else DEFENSES
        registry.register(component.name, component)
        registered.append((registry, component.name))
        return CliRunner().invoke(main, ["check", component.name])

    yield check
    for registry, name in registered:
        registry.unregister(name)


def test_a_sound_defense_keeps_all_rules_and_each_is_a_line(checked: Callable[..., Result]) -> None:
    result = checked(Tint)
    assert result.exit_code == 0, result.output
    assert "BROKEN" not in result.output
    assert result.output.splitlines()[0] == "defense tint"
    assert "  ok     is undone for the oracle where it changes images" in result.output
    assert " 0 broken" in result.output.splitlines()[-1]


@pytest.mark.parametrize(
    ("hooks", "rule"),
    [
        ({"name": "another"}, "is a documented class with its registered name"),
        ({"guarantee": lambda _: "nothing"}, "says what it guarantees in a sentence"),
        ({"trained_as": lambda _: "mjp"}, "names the victim that it runs on"),
        ({"prepare_batch": staticmethod(leaving)}, "feeds a batch of the same shape, range and type"),
        ({"prepare_batch": staticmethod(unseeded)}, "draws from its generator alone"),
        ({"prepare_batch": staticmethod(telling)}, "discloses choices that are no images"),
        ({"prepare_batch": staticmethod(idle)}, "is not explained by the undefended pass"),
        ({"protect_gradients": staticmethod(infinite)}, "sends finite gradients"),
        ({"protect_gradients": staticmethod(in_place)}, "does not change the gradients that it is given"),
        ({"oracle": staticmethod(forgetful)}, "lets the oracle compute the observed gradient"),
        ({"oracle": staticmethod(wrong_way)}, "is undone for the oracle"),
    ],
    ids=lambda value: value.split(",")[0].replace(" ", "-") if isinstance(value, str) else "",
)
def test_what_breaks_a_rule_is_a_line_that_says_which(hooks: dict[str, Any], rule: str, checked: Callable[..., Result]) -> None:
    broken = type("Broken", (Tint,), {"__doc__": "Broken.", **hooks})
    DEFENSES.register("tint", broken)
    try:
        result = CliRunner().invoke(main, ["check", "tint"])
    finally:
        DEFENSES.unregister("tint")
    assert result.exit_code == 1
    assert any(line.startswith(f"  BROKEN {rule}") for line in result.output.splitlines()), result.output
    assert "Traceback" not in result.output


class Forgetful(ClosedForm):
    """The closed form, with noise of the process in it."""

    name: ClassVar[str] = "forgetful"

    def run(self, observation: Observation, *, generator: torch.Generator, progress: Progress) -> Reconstruction:
        found = super().run(observation, generator=generator, progress=progress)
        return Reconstruction(torch.rand_like(found.images))


def test_an_attack_is_checked_by_the_rules_of_attacks(checked: Callable[..., Result]) -> None:
    result = checked(Forgetful)
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[0] == "attack forgetful"
    (broken,) = [line for line in lines if line.startswith("  BROKEN")]
    assert broken.startswith("  BROKEN draws from its generator alone and leaves global state alone: ")


def test_an_unknown_name_is_one_line() -> None:
    result = CliRunner().invoke(main, ["check", "closed-fomr"])
    assert result.exit_code == 2
    assert "closed-form" in result.output


def test_a_plugin_that_cannot_be_imported_is_a_line_of_the_list_and_not_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("broken", "no_such_package.module:Thing", "privbench.defenses")
    monkeypatch.setattr("privbench.core.registry.entry_points", lambda group: [point] if group == point.group else [])
    monkeypatch.setattr(DEFENSES, "_table", None)
    monkeypatch.setenv("COLUMNS", "400")
    result = CliRunner().invoke(main, ["list", "defenses"])
    assert result.exit_code == 0
    assert "naive-shuffle" in result.output
    words = " ".join(result.output.split())
    assert "broken not available: defense 'broken' (no_such_package.module:Thing" in words
    assert "No module named 'no_such_package'" in words
    with pytest.raises(UserError, match="cannot be imported"):
        DEFENSES.get("broken")
