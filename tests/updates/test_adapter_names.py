"""Adapters of peft: whatever kind they are of, what a client saves is an update, and what cannot be attacked is said."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest
import torch
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import privbench
from privbench.core import UserError
from privbench.updates import UpdateSource, observation_of

peft = pytest.importorskip("peft", reason="the extra 'peft' is not installed")

KINDS: Mapping[str, Mapping[str, Any]] = {
    "LoraConfig": {"r": 2, "target_modules": ["qkv"]},
    "LoraConfig, head": {"r": 2, "target_modules": ["qkv"], "modules_to_save": ["head"]},
    "LoraConfig, all": {"r": 2, "target_modules": ["qkv", "proj", "fc1", "fc2"]},
    "LoraConfig, DoRA": {"r": 2, "target_modules": ["qkv"], "use_dora": True},
    "AdaLoraConfig": {"init_r": 2, "target_modules": ["qkv"], "total_step": 10},
    "IA3Config": {"target_modules": ["qkv", "fc2"], "feedforward_modules": ["fc2"]},
    "LNTuningConfig": {"target_modules": ["norm1", "norm2"]},
    "LoKrConfig": {"r": 2, "target_modules": ["qkv"]},
    "OFTConfig": {"oft_block_size": 4, "target_modules": ["qkv"]},
}


def _model(kind: str) -> nn.Module:
    torch.manual_seed(0)
    plain = VisionTransformer(img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=2, num_classes=5)
    config = getattr(peft, kind.partition(",")[0])(**KINDS.get(kind, {"r": 2, "target_modules": ["qkv"]}))
    adapted: nn.Module = peft.get_peft_model(plain, config).eval()
    return adapted


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    cross_entropy(model(torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))), torch.tensor([3])).backward()  # type: ignore[no-untyped-call]
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_an_update_has_the_names_of_the_model_or_of_the_file_that_peft_saves(kind: str) -> None:
    model = _model(kind)
    named = _gradients(model)
    changed = deepcopy(model)
    with torch.no_grad():
        for name, value in changed.named_parameters():
            value.copy_(named.get(name, value))
    saved = {name: value for name, value in peft.get_peft_model_state_dict(changed).items() if value.is_floating_point()}
    assert named.keys() != saved.keys()
    first, _ = observation_of(UpdateSource(model=model, update=named, kind="gradient", labels=(3,)))
    second, _ = observation_of(UpdateSource(model=model, update=saved, kind="gradient", labels=(3,)))
    assert first.update.keys() <= second.update.keys()
    assert all(torch.equal(value, second.update[name]) for name, value in first.update.items())


@pytest.mark.filterwarnings("ignore")
def test_adapters_through_which_nothing_can_be_differentiated_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"cannot be differentiated by torch\.func") as caught:
        privbench.audit(_model("LoHaConfig"), {"a": torch.ones(1)})
    assert "\n" not in str(caught.value)
