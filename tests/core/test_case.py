"""A case's identity: equal for equal experiments, different for different ones, and the seed source of both sides."""

from pathlib import Path
from typing import Literal

import pytest
import torch

from privbench.core import Case, ComponentSpec, DataSpec, ModelSpec, ThreatModel, UserError, VictimSpec, generator_for


def make_case(**changes: object) -> Case:
    fields: dict[str, object] = {
        "attack": ComponentSpec(name="gradvit", parameters={"steps": 3, "relocation": True}),
        "defense": (ComponentSpec(name="mjp", parameters={"mask_ratio": 0.1}),),
        "victim": VictimSpec(model=ModelSpec(name="vit_mini_patch4_32", num_classes=10, image_size=32), weights_sha256="ab"),
        "data": DataSpec(indices=(0, 1), sha256="cd"),
    }
    return Case.model_validate({**fields, **changes})


def test_identity_survives_yaml(tmp_path: Path) -> None:
    case = make_case()
    path = tmp_path / "case.yaml"
    path.write_text(case.to_yaml(), encoding="utf-8")
    again = Case.from_yaml(path)
    assert again == case
    assert again.identity == case.identity
    assert again.folder == case.folder


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"batch_size": 2},
        {"threat_model": ThreatModel(adversary="oracle")},
        {"attack": ComponentSpec(name="gradvit", parameters={"steps": 4, "relocation": True})},
        {"defense": (ComponentSpec(name="mjp", parameters={"mask_ratio": 0.2}),)},
        {"data": DataSpec(indices=(0, 1), sha256="other pixels")},
        {"data": DataSpec(indices=(1, 0), sha256="cd")},
        {"lpips": "vgg"},
    ],
)
def test_whatever_changes_the_numbers_changes_the_identity(changes: dict[str, object]) -> None:
    assert make_case(**changes).identity != make_case().identity


def test_the_order_of_parameters_and_the_place_of_a_folder_do_not() -> None:
    swapped = make_case(attack=ComponentSpec(name="gradvit", parameters={"relocation": True, "steps": 3}))
    assert swapped.identity == make_case().identity
    here = make_case(data=DataSpec(source="/here/photos", indices=(0, 1), sha256="cd"))
    there = make_case(data=DataSpec(source="/elsewhere/photos", indices=(0, 1), sha256="cd"))
    assert here.identity == there.identity


def draw(role: Literal["client", "attack"], batch: int, **changes: object) -> float:
    return float(torch.rand((), generator=generator_for(make_case(**changes), role, batch)))


def test_all_attackers_face_the_same_random_choices_of_the_client() -> None:
    others: list[dict[str, object]] = [
        {"attack": ComponentSpec(name="other")},
        {"threat_model": ThreatModel(adversary="oracle", labels="known")},
        {"lpips": "vgg"},
    ]
    for changes in others:
        assert draw("client", 0, **changes) == draw("client", 0)
        assert draw("attack", 0, **changes) != draw("attack", 0)
    assert draw("client", 0, seed=1) != draw("client", 0)
    assert draw("client", 0, threat_model=ThreatModel(model_mode="train")) != draw("client", 0)


def with_prior(text: str, digest: str = "ef") -> Case:
    attack = ComponentSpec(name="gradvit", parameters={"steps": 3, "prior": text})
    return make_case(attack=attack, prior_weights={text: digest})


def test_what_a_prior_has_learnt_is_part_of_a_case_and_where_its_file_lies_is_not() -> None:
    here, there = with_prior("resnet18?size=32:/here/w.pth"), with_prior("resnet18?size=32:elsewhere/w.pth")
    assert here.identity == there.identity == with_prior("resnet18?size=32:w.pth").identity
    assert here.identity != with_prior("resnet18?size=32:/here/w.pth", "other weights").identity
    assert here.without_paths() == with_prior("resnet18?size=32:w.pth")
    assert here.without_paths().identity == here.identity


def test_a_prior_of_other_weights_leaves_all_random_choices_as_they_are() -> None:
    attack = ComponentSpec(name="gradvit", parameters={"steps": 3, "prior": "cnn_mini_32"})
    roles: tuple[Literal["client", "attack"], ...] = ("client", "attack")
    for role in roles:
        drawn = {draw(role, 0, attack=attack, prior_weights={"cnn_mini_32": digest}) for digest in ("ef", "other weights")}
        assert drawn == {draw(role, 0, attack=attack)}


def test_roles_and_batches_are_separate_repeatable_streams() -> None:
    assert draw("client", 0) == draw("client", 0)
    assert len({draw("client", 0), draw("attack", 0), draw("client", 1), draw("attack", 1)}) == 4


@pytest.mark.parametrize("role", ["client", "attack"])
def test_a_batch_has_the_same_stream_whatever_other_images_its_case_has(role: Literal["client", "attack"]) -> None:
    alone = DataSpec(indices=(1,), sha256="other pixels")
    assert draw(role, 0, data=alone) == draw(role, 1)
    assert draw(role, 0, data=alone.model_copy(update={"split": "train"})) != draw(role, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schema_version: 2\n", "case schema 2, this version reads 1"),
        ("- a list\n", "is not a case"),
        ("schema_version: 1\nattack: {name: gradvit}\n", "Field required"),
        ("a: [", "cannot read the case"),
    ],
)
def test_a_file_that_is_no_case_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "case.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        Case.from_yaml(path)
    assert "\n" not in str(caught.value)
