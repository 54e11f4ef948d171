"""The wire: what crosses it, what does not, and that a saved observation is the same one."""

import dataclasses
from pathlib import Path

import pytest
import torch

from privbench.core import ModelSpec, Observation, Secret, ThreatModel, UserError


def _observation(**changes: object) -> Observation:
    base = Observation(
        gradients={"head.weight": torch.arange(6.0).reshape(2, 3)},
        model=ModelSpec(name="vit_mini_patch4_32", num_classes=10, image_size=32),
        model_state={"head.weight": torch.ones(2, 3), "head.steps": torch.tensor(3)},
        batch_size=2,
        threat_model=ThreatModel(adversary="oracle", labels="known"),
        defense="mjp:mask_ratio=0.1",
        labels=torch.tensor([1, 4]),
        disclosed={"mjp.mask": torch.tensor([True, False])},
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
    assert again.labels is not None
    assert again.labels.tolist() == [1, 4]
    for group in ("gradients", "model_state", "disclosed"):
        ours, theirs = getattr(observation, group), getattr(again, group)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) and ours[key].dtype == theirs[key].dtype for key in ours)


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
    observation = _observation(gradients={"w": gradient})
    assert observation.gradients["w"].grad_fn is None
    assert observation.gradients["w"].data_ptr() != gradient.data_ptr()
    with pytest.raises(TypeError):
        observation.gradients["w"] = torch.zeros(1)  # type: ignore[index]


def test_an_observation_moves_whole_and_only_where_it_must() -> None:
    observation = _observation()
    assert observation.to(torch.device("cpu")) is observation
    # The check for finite gradients needs values, which the device `meta` has not.
    moves: list[torch.device] = []

    class Moving(torch.Tensor):
        def to(self, *arguments: object, **keywords: object) -> torch.Tensor:
            moves.extend(thing for thing in arguments if isinstance(thing, torch.device))
            return self

    parts = {"gradients": {"w": torch.ones(2)}, "model_state": {"w": torch.ones(2)}, "disclosed": {"m": torch.ones(2)}}
    subclassed = {name: {key: value.as_subclass(Moving) for key, value in group.items()} for name, group in parts.items()}
    moved = _observation(**subclassed, labels=torch.tensor([1, 4]).as_subclass(Moving)).to(torch.device("meta"))
    assert moves == [torch.device("meta")] * 4
    assert (moved.batch_size, moved.threat_model, moved.defense) == (2, observation.threat_model, observation.defense)


def test_a_gradient_that_is_not_finite_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="gradient of w is not finite"):
        _observation(gradients={"w": torch.tensor([1.0, float("nan")])})


def test_a_secret_does_not_print_itself() -> None:
    secret = Secret(torch.rand(1, 3, 2, 2), torch.tensor([7]), torch.rand(1, 3, 2, 2))
    assert repr(secret) == "Secret(sealed)"
