"""Class tokens without a position row, registers, no class token, LayerScale: what closed forms get does not hang on them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from privbench.attacks.closed_form import ClosedForm
from privbench.attacks.subspace import Subspace
from privbench.core import MODELS, Observation, Secret
from privbench.models import Architecture
from tests.attacks.closed_forms import attacked, patch_errors, psnr, update

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "no-embed-class": {"no_embed_class": True},
    "registers": {"reg_tokens": 4},
    "registers-without-rows": {"no_embed_class": True, "reg_tokens": 4},
    "pooled": {"class_token": False, "global_pool": "avg"},
    "pooled-with-registers": {"class_token": False, "no_embed_class": True, "reg_tokens": 4, "global_pool": "avg"},
    "layer-scale": {"init_values": 0.1},
}


@pytest.fixture(autouse=True)
def variants() -> Iterator[None]:
    """The variants as architectures of the embedded victim's size."""
    for name, options in VARIANTS.items():
        MODELS.register(name, Architecture(name, "a variant", 32, 10, _builder(options)))
    yield
    for name in VARIANTS:
        MODELS.unregister(name)


def _builder(options: Mapping[str, Any]) -> Any:
    def build(num_classes: int, image_size: int) -> nn.Module:
        return VisionTransformer(
            img_size=image_size, patch_size=4, embed_dim=192, depth=3, num_heads=3, num_classes=num_classes, **options
        )

    return build


def _update(model: str, weights: str, defense: str, adversary: str) -> tuple[Observation, Secret]:
    return update(defense, model=model, weights=weights, adversary=adversary)


def _rewritten(state: Mapping[str, Tensor], folder: Path) -> str:
    """The embedded victim as a model whose class token has no position row: the row is added to the token itself."""
    table = state["network.pos_embed"]
    moved = {
        **state,
        "network.cls_token": state["network.cls_token"] + table[:, :1],
        "network.pos_embed": table[:, 1:].contiguous(),
    }
    save_file(moved, str(folder / "rewritten.safetensors"))
    return str(folder / "rewritten.safetensors")


def test_the_same_function_with_the_class_tokens_row_in_the_token_gives_the_same_score(tmp_path: Path) -> None:
    defense = "mjp:mask_ratio=0.27"
    observation, secret = update(defense, adversary="aware")
    rewritten, same = _update("no-embed-class", _rewritten(observation.model_state, tmp_path), defense, "aware")
    assert torch.equal(secret.choices["mjp.mask"], same.choices["mjp.mask"])
    found, again = (attacked(Subspace(), one) for one in (observation, rewritten))
    assert again.flags == found.flags
    assert psnr(again.images, secret.images) == pytest.approx(psnr(found.images, secret.images), abs=3)
    assert psnr(again.images, secret.images) > 75


def _fitted(name: str, state: Mapping[str, Tensor], folder: Path) -> str:
    """The embedded victim's weights as far as the variant has them; what it has more is drawn.

    Random weights will not do: at them the patches' share in the first block's gradient drowns in rounding.
    """
    network = _builder(VARIANTS[name])(10, 32)
    table, generator = state["network.pos_embed"], torch.Generator().manual_seed(3)
    own = {}
    for key, value in network.state_dict().items():
        given = state.get(f"network.{key}")
        if key == "pos_embed":
            rows = 64 + state["network.pos_embed"].shape[1] - 65
            before = value.shape[1] - 64
            given = torch.cat([table[:, :1].expand(-1, before, -1), table[:, 1 : 1 + rows]], dim=1)
        elif key == "reg_token":
            given = 0.3 * torch.randn(value.shape, generator=generator)
        own[f"network.{key}"] = value if given is None else given.contiguous()
    save_file(own, str(folder / f"{name}.safetensors"))
    return str(folder / f"{name}.safetensors")


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_variant_is_read_exactly_without_a_defense_and_beside_masked_patches(name: str, tmp_path: Path) -> None:
    plain, masked = (update(defense)[0].model_state for defense in ("none", "mjp:mask_ratio=0.1"))
    observation, secret = _update(name, _fitted(name, plain, tmp_path), "none", "unaware")
    for attack in (ClosedForm(), Subspace()):
        assert psnr(attacked(attack, observation).images, secret.images) > 75, attack.name
    observation, secret = _update(name, _fitted(name, masked, tmp_path), "mjp:mask_ratio=0.1", "aware")
    result = attacked(Subspace(), observation)
    mask = secret.choices["mjp.mask"]
    assert result.inferred.mask is not None
    assert torch.equal(result.inferred.mask, mask)
    assert patch_errors(result.images, secret.images)[~mask].max() < 1e-4
