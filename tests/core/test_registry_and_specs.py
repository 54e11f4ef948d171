"""Names, near misses and specifications: what a user types."""

from typing import Any, ClassVar

import pytest

from privbench.core import (
    ATTACKS,
    DEFENSES,
    Defense,
    Registry,
    UserError,
    build_defense,
    parse_spec,
    parse_specs,
    resolve_defense,
)


def test_what_a_decimal_comma_leaves_says_how_decimals_are_written() -> None:
    with pytest.raises(UserError, match=r"unknown defense '27'; if '27' belongs to a number, write its decimals after a point"):
        [resolve_defense(part) for part in ["none", "mjp:mask_ratio=0", "27"]]


def test_unknown_name_names_the_near_miss_and_all_names() -> None:
    with pytest.raises(UserError) as caught:
        DEFENSES.get("mpj")
    assert "did you mean mjp or mixup?" in str(caught.value)
    assert all(name in str(caught.value) for name in ("none", "no-pe", "naive-shuffle", "mjp"))
    assert "\n" not in str(caught.value)


def test_a_name_registered_twice_is_an_error_naming_both_claimants() -> None:
    class Impostor:
        pass

    with pytest.raises(UserError, match=r"twice: by privbench.attacks.gradvit:GradViT and by .*Impostor"):
        ATTACKS.register("gradvit", Impostor)


def test_entry_points_fill_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name, value = "mine", "their_package:Mine"

        def load(self) -> str:
            return "loaded"

    points: Any = [Point()]
    monkeypatch.setattr("privbench.core.registry.entry_points", lambda group: points if group == "privbench.defenses" else [])
    registry = Registry("defense", "privbench.defenses", "privbench.defenses")
    assert registry.get("mine") == "loaded"
    assert registry.origin("mine") == "their_package:Mine"
    assert "mjp" in registry.names()


def test_spec_reads_parameters_and_composition() -> None:
    first, second = parse_specs("mjp:mask_ratio=0.27,dal_weight=0+naive-shuffle")
    assert (first.name, first.parameters) == ("mjp", {"mask_ratio": "0.27", "dal_weight": "0"})
    assert (second.name, second.parameters) == ("naive-shuffle", {})


def test_a_plus_inside_a_number_joins_nothing() -> None:
    parts = parse_specs("a:x=1e+2,y=2.E+03+b:z=3e+4+c")
    assert [(part.name, part.parameters) for part in parts] == [
        ("a", {"x": "1e+2", "y": "2.E+03"}),
        ("b", {"z": "3e+4"}),
        ("c", {}),
    ]
    # Python itself writes large numbers so, and what is stored must be read back.
    specs = resolve_defense("clipping:max_norm=1e20")
    assert "e+20" in str(specs[0])
    assert resolve_defense(f"mjp+{specs[0]}")[1:] == specs


def test_a_name_in_capitals_means_the_one_in_small_letters() -> None:
    with pytest.raises(UserError, match=r"unknown defense 'MJP'; did you mean mjp\? accepted"):
        DEFENSES.get("MJP")


@pytest.mark.parametrize("text", ["mjp+", "+mjp", "mjp++sign", "mjp+ "])
def test_a_plus_without_a_part_is_named(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_specs(text)
    assert str(caught.value) == f"nothing stands before or after a '+' in '{text}'; accepted: NAME+NAME, or NAME alone"


@pytest.mark.parametrize("text", ["", ":", "mjp:", "mjp:mask_ratio", "mjp:=1", "mjp:mask_ratio=", "mjp:a=1,a=2", "mjp+"])
def test_malformed_spec_is_one_clear_line(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_specs(text)
    assert "\n" not in str(caught.value)


def test_parse_spec_keeps_text() -> None:
    assert parse_spec("a:x=1e-3").parameters == {"x": "1e-3"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mjp:mask_ratio=1.5", "less than or equal to 1"),
        ("mjp:mask_ratio=much", "valid number"),
        ("mjp:mask_ratio=nan", "finite"),
        ("mjp:mask_ration=0.1", "did you mean mask_ratio"),
        ("mjp+mjp", "named twice"),
    ],
)
def test_wrong_parameters_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        resolve_defense(text)
    assert "\n" not in str(caught.value)


def test_resolution_fills_in_defaults_and_builds_the_same_object() -> None:
    (spec,) = resolve_defense("mjp:mask_ratio=0.27")
    assert spec.parameters["mask_ratio"] == 0.27
    assert spec.parameters["dal_regressor"] == "nonlinear"
    rebuilt = build_defense(resolve_defense(str(spec)))
    assert rebuilt == build_defense([spec])


def test_defenses_that_need_different_victims_do_not_compose() -> None:
    with pytest.raises(UserError, match="different victims"):
        build_defense(resolve_defense("mjp+naive-shuffle")).trained_as()


def test_composition_applies_hooks_in_order_and_merges_choices() -> None:
    import torch

    from privbench.core import ModelInput, ProtectedInput
    from privbench.core.composition import Composition

    class Adds(Defense):
        name: ClassVar[str] = "adds"
        amount: float

        def prepare_batch(self, model: Any, batch: ModelInput, generator: torch.Generator) -> ProtectedInput:
            changed = batch.images * 2 + self.amount
            return ProtectedInput(ModelInput(changed), {f"adds.{self.amount}": torch.tensor(self.amount)})

        def protect_gradients(self, gradients: Any, generator: torch.Generator) -> Any:
            return {name: value * 2 + self.amount for name, value in gradients.items()}

        def guarantee(self) -> str:
            return "Adds."

    composed = Composition(parts=(Adds(amount=1.0), Adds(amount=5.0)))
    out = composed.prepare_batch(torch.nn.Identity(), ModelInput(torch.zeros(1)), torch.Generator())
    assert out.model_input.images.item() == 7.0  # (0*2+1)*2+5
    assert set(out.choices) == {"adds.1.0", "adds.5.0"}
    assert composed.protect_gradients({"w": torch.ones(1)}, torch.Generator())["w"].item() == 11.0
