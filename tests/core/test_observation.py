"""The wire: what crosses it, what does not, and that a saved observation is the same one."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch

from privbench.core import (
    LocalTraining,
    ModelSpec,
    Normalisation,
    Observation,
    Secret,
    ThreatModel,
    UserError,
    resolve_defense,
)


def _observation(**changes: object) -> Observation:
    base = Observation(
        update={"head.weight": torch.arange(6.0).reshape(2, 3)},
        model=ModelSpec(name="vit_mini_patch4_32", num_classes=10, image_size=32),
        model_state={"head.weight": torch.ones(2, 3), "head.steps": torch.tensor(3)},
        batch_size=2,
        threat_model=ThreatModel(adversary="oracle", labels="known"),
        defense=resolve_defense("mjp:mask_ratio=0.1"),
        labels=torch.tensor([1, 4]),
        disclosed={"mjp.mask": torch.tensor([True, False])},
        normalisation=Normalisation((0.5, 0.4, 0.3), (0.2, 0.2, 0.1)),
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_round_trip_through_a_file(tmp_path: Path) -> None:
    observation = _observation()
    observation.save(tmp_path / "o.safetensors")
    again = Observation.load(tmp_path / "o.safetensors")
    assert (again.model, again.batch_size, again.threat_model, again.defense) == (
        observation.model,
        2,
        observation.threat_model,
        observation.defense,
    )
    assert (again.kind, again.training, again.normalisation) == ("gradient", None, observation.normalisation)
    assert again.labels is not None
    assert again.labels.tolist() == [1, 4]
    for group in ("update", "model_state", "disclosed"):
        ours, theirs = getattr(observation, group), getattr(again, group)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) and ours[key].dtype == theirs[key].dtype for key in ours)


def test_a_round_trip_keeps_how_a_client_trained(tmp_path: Path) -> None:
    training = LocalTraining(optimiser="adamw", steps=3, dtype="float16")
    _observation(kind="delta", training=training, update={"head.weight": torch.ones(2, 3).half()}).save(tmp_path / "o")
    again = Observation.load(tmp_path / "o")
    assert (again.kind, again.training, again.update["network.head.weight"].dtype) == ("delta", training, torch.float16)


def test_a_round_trip_keeps_absent_labels_absent(tmp_path: Path) -> None:
    _observation(labels=None).save(tmp_path / "o.safetensors")
    assert Observation.load(tmp_path / "o.safetensors").labels is None


@pytest.mark.parametrize("content", [b"", b"not a safetensors file", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_file_that_is_no_observation_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "o.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"o\.safetensors is not a saved observation"):
        Observation.load(path)
    with pytest.raises(UserError, match="is not a saved observation"):
        Observation.load(tmp_path / "absent.safetensors")


def test_the_observation_holds_copies_and_cannot_be_changed() -> None:
    gradient = torch.ones(2, requires_grad=True) * 1.0
    observation = _observation(update={"w": gradient}, model_state={"w": gradient})
    assert observation.update["network.w"].grad_fn is None
    assert observation.update["network.w"].data_ptr() != gradient.data_ptr()
    with pytest.raises(TypeError):
        observation.update["network.w"] = torch.zeros(1)  # type: ignore[index]
    with pytest.raises(TypeError):
        observation.gradients["network.w"] = torch.zeros(1)  # type: ignore[index]


def test_an_observation_moves_whole_and_only_where_it_must() -> None:
    observation = _observation()
    assert observation.to(torch.device("cpu")) is observation
    # The check for finite gradients needs values, which the device `meta` has not.
    moves: list[torch.device] = []

    class Moving(torch.Tensor):
        def to(self, *arguments: object, **keywords: object) -> torch.Tensor:
            moves.extend(thing for thing in arguments if isinstance(thing, torch.device))
            return self

    parts = {"update": {"w": torch.ones(2)}, "model_state": {"w": torch.ones(2)}, "disclosed": {"m": torch.ones(2)}}
    subclassed = {name: {key: value.as_subclass(Moving) for key, value in group.items()} for name, group in parts.items()}
    moved = _observation(**subclassed, labels=torch.tensor([1, 4]).as_subclass(Moving)).to(torch.device("meta"))
    assert moves == [torch.device("meta")] * 4
    assert (moved.batch_size, moved.threat_model, moved.defense) == (2, observation.threat_model, observation.defense)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"update": {}}, "without a single parameter"),
        ({"update": {"head.weight": torch.tensor([[1.0, float("nan"), 0], [0, 0, 0]])}}, r"head\.weight is not finite"),
        ({"update": {"head.weigth": torch.zeros(2, 3)}}, r"no parameter head\.weigth; did you mean head\.weight\?"),
        ({"update": {"head.weight": torch.zeros(3, 2)}}, r"head\.weight has shape \(3, 2\), the model's is \(2, 3\)"),
        ({"update": {"head.weight": torch.zeros(2, 3).long()}}, r"head\.weight is of type torch\.int64"),
        ({"batch_size": 0}, "observation of 0 images"),
        ({"labels": torch.tensor([1])}, r"labels of shape \(1,\)"),
        ({"labels": torch.tensor([1.0, 2.0])}, "whole numbers"),
        ({"labels": torch.tensor([1, 10])}, "labels from 1 to 10; the model has classes 0 to 9"),
        ({"labels": torch.tensor([-1, 3])}, "labels from -1 to 3"),
        ({"kind": "difference"}, "kind 'difference'; accepted: gradient, delta"),
        ({"training": LocalTraining()}, "is of kind delta"),
    ],
)
def test_an_observation_that_does_not_fit_its_model_is_refused_in_one_line(changes: dict[str, object], line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        _observation(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "network.", "module.", "_module.network.", "_orig_mod.", "module._orig_mod.", "model."])
def test_names_are_the_same_whatever_wrapped_the_model(prefix: str) -> None:
    observation = _observation(update={f"{prefix}head.weight": torch.ones(2, 3)})
    assert list(observation.update) == ["network.head.weight"]


def test_two_names_that_become_one_are_refused() -> None:
    with pytest.raises(UserError, match=r"two tensors .* are called head\.weight"):
        _observation(update={"head.weight": torch.ones(2, 3), "module.head.weight": torch.ones(2, 3)})


def test_an_attack_says_which_parameters_a_partial_update_lacks() -> None:
    with pytest.raises(UserError, match=r"attack x needs the update of pos_embed, .* sent: head\.weight \(1 parameter\)"):
        _observation().require_parameters(["network.head.weight", "network.pos_embed"], "x")
    _observation().require_parameters(["network.head.weight"], "x")


def test_a_secret_does_not_print_itself() -> None:
    secret = Secret(torch.rand(1, 3, 2, 2), torch.tensor([7]), torch.rand(1, 3, 2, 2))
    assert repr(secret) == "Secret(sealed)"


def test_a_pipe_is_no_observation(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(UserError, match="it is no regular file"):
        Observation.load(tmp_path / "pipe.safetensors")
