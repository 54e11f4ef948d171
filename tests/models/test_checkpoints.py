"""Weights files as training loops write them: containers, prefixes, refused objects, positions of another size."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from privbench.core import UserError, VictimSpec, build_defense, resolve_defense
from privbench.models import build_model, default_spec, load_state, load_victim, loading, resolve_victim
from privbench.models.checkpoints import RESAMPLED, fitted_names

NONE = build_defense(resolve_defense("none"))
MODEL = "vit_mini_patch4_32"


@pytest.fixture(scope="module")
def network_state() -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return dict(build_model(default_spec(MODEL)).network.state_dict())


def _loaded(path: Path | str, *, image_size: int | None = None) -> dict[str, Tensor]:
    spec = resolve_victim(MODEL, str(path), NONE, image_size=image_size)
    return dict(load_victim(spec, NONE, generator=torch.Generator()).state_dict())


def _prefixed(prefix: str) -> Callable[[dict[str, Tensor]], Any]:
    return lambda state: {f"{prefix}{name}": value for name, value in state.items()}


def _under(*keys: str) -> Callable[[dict[str, Tensor]], Any]:
    def wrapped(state: dict[str, Tensor]) -> Any:
        content: Any = state
        for key in reversed(keys):
            content = {key: content, "epoch": 3}
        return content

    return wrapped


def _lightning(state: dict[str, Tensor]) -> Any:
    weights = {f"model.{name}": value for name, value in state.items()} | {"loss.weight": torch.ones(10)}
    return {"epoch": 1, "pytorch-lightning_version": "2.5.0", "state_dict": weights, "optimizer_states": [{"state": {}}]}


@pytest.mark.parametrize(
    "form",
    [
        *map(_prefixed, ("module.", "_module.", "_orig_mod.", "model.", "net.", "network.", "module._orig_mod.", "my.own.")),
        *(_under(key) for key in ("state_dict", "model_state_dict", "model", "model_ema")),
        _under("model", "state_dict"),
        _lightning,
    ],
)
def test_what_training_loops_write_is_read(
    form: Callable[[Any], Any], network_state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(form(network_state), tmp_path / "w.pth")
    loaded = _loaded(tmp_path / "w.pth")
    assert all(torch.equal(loaded[f"network.{name}"], value) for name, value in network_state.items())


def test_two_networks_of_the_same_names_are_refused(network_state: dict[str, Tensor]) -> None:
    both = {f"{role}.{name}": value for role in ("student", "teacher") for name, value in network_state.items()}
    with pytest.raises(UserError, match=r"2 networks of these names, under student\. and teacher\."):
        fitted_names(both, network_state)


def test_refused_objects_are_named_whole_with_what_to_do(network_state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"state_dict": network_state, "args": argparse.Namespace(lr=1)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"argparse\.Namespace.*torch\.save\(model\.state_dict\(\)") as caught:
        load_state(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


def test_a_file_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"the keys epoch, lr; accepted: a state_dict, or one under state_dict, model_"):
        load_state(tmp_path / "w.pth")


def test_positions_are_resampled_on_request_alone(network_state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(network_state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=rf"needed \(1, 257, 192\); {RESAMPLED}.*resamples its positions"):
        _loaded(tmp_path / "w.pth", image_size=64)
    table = _loaded(f"{RESAMPLED}{tmp_path / 'w.pth'}", image_size=64)["network.pos_embed"]
    before = network_state["pos_embed"]
    assert table.shape == (1, 257, 192)
    assert torch.equal(table[:, 0], before[:, 0]), "the class token's row has no place"
    # Halving the grid again gives about what it was.
    grid = table[0, 1:].reshape(16, 16, 192).reshape(8, 2, 8, 2, 192).mean((1, 3)).reshape(64, 192)
    smooth = torch.nn.functional.cosine_similarity(grid.flatten(), before[0, 1:].flatten(), dim=0)
    assert smooth > 0.8


@pytest.mark.integration
def test_an_architecture_without_a_classifier_gets_one(tmp_path: Path) -> None:
    """DINOv2's weights have none; 145 of timm's architectures are so."""
    spec = default_spec("vit_small_patch14_dinov2", image_size=28)
    assert spec.num_classes == 1000
    network = build_model(spec).network
    bare = {name: value for name, value in network.state_dict().items() if not name.startswith("head.")}
    torch.save(bare, tmp_path / "w.pth")
    victim = load_victim(VictimSpec(model=spec, weights=str(tmp_path / "w.pth")), NONE, generator=torch.Generator())
    assert torch.equal(victim.state_dict()["network.cls_token"], bare["cls_token"])
    assert victim(torch.zeros(1, 3, 28, 28)).shape == (1, 1000)
    assert victim.classifier_drawn
    torch.save(network.state_dict(), tmp_path / "whole.pth")
    whole = VictimSpec(model=spec, weights=str(tmp_path / "whole.pth"))
    assert not load_victim(whole, NONE, generator=torch.Generator()).classifier_drawn


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "num_classes", "drawn"),
    [("deit_tiny_patch16_224", 1000, False), ("deit_tiny_patch16_224", 10, True), ("vit_small_patch14_dinov2", 1000, True)],
)
def test_a_classifier_that_timm_draws_is_said(
    name: str, num_classes: int, drawn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "pretrained_state", lambda spec: build_model(spec).network.state_dict())
    spec = default_spec(name, num_classes=num_classes, image_size=28 if "patch14" in name else 32)
    victim = load_victim(VictimSpec(model=spec, weights="pretrained"), NONE, generator=torch.Generator())
    assert victim.classifier_drawn == drawn
