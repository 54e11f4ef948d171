"""APRIL as published: it inverts attention that reads the embedding directly, and refuses every other first block."""

from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from privbench.attacks.april import April
from privbench.core import MODELS, UserError
from privbench.models.zoo import Architecture
from tests.attacks.closed_forms import attacked, psnr, update


class Attention(nn.Module):
    """One head, sharp enough at random weights to treat tokens differently."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).chunk(3, dim=-1)
        mixed: Tensor = torch.softmax(20 * query @ key.transpose(1, 2), dim=-1) @ value
        return mixed


class Bare(nn.Module):
    """Attention on the tokens themselves, and a residual only behind it."""

    def __init__(self, dim: int, **_: Any) -> None:
        super().__init__()
        self.attn = Attention(dim)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, tokens: Tensor, **_: Any) -> Tensor:
        read: Tensor = self.attn(tokens)
        return read + cast(Tensor, self.mlp(read))


class WithResidual(Bare):
    """The same with the residual connection around the attention."""

    def forward(self, tokens: Tensor, **_: Any) -> Tensor:
        return tokens + super().forward(tokens)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    for name, block in (("bare", Bare), ("bare_residual", WithResidual)):
        MODELS.register(name, _architecture(name, block))
    yield
    for name in ("bare", "bare_residual"):
        MODELS.unregister(name)


def _architecture(name: str, block: type[nn.Module]) -> Architecture:
    def build(num_classes: int, image_size: int) -> nn.Module:
        return VisionTransformer(
            img_size=image_size, patch_size=4, embed_dim=96, depth=2, num_heads=3, num_classes=num_classes, block_fn=block
        )

    return Architecture(name=name, summary="for this test", image_size=32, num_classes=10, build=build)


def test_it_inverts_attention_that_alone_reads_the_embedding() -> None:
    observation, secret = update(model="bare", weights="random")
    assert psnr(attacked(April(), observation).images, secret.images) > 60


def test_the_attention_and_position_gradients_are_what_it_uses() -> None:
    observation, secret = update(model="bare", weights="random")
    used = {"network.pos_embed", "network.blocks.0.attn.qkv.weight"}
    gradients = {name: value if name in used else torch.zeros_like(value) for name, value in observation.gradients.items()}
    stripped = observation.with_gradients(gradients)
    assert psnr(attacked(April(), stripped).images, secret.images) > 60


@pytest.mark.parametrize(
    ("model", "defense", "batch", "words"),
    [
        ("vit_mini_patch4_32", "none", 1, "LayerNorm"),
        ("bare_residual", "none", 1, "residual"),
        ("bare", "mjp", 1, "share a row"),
        ("bare", "no-pe", 1, "learned position embedding"),
        ("bare", "none", 2, "one image"),
    ],
)
def test_models_to_which_it_does_not_apply_are_refused_in_a_line(model: str, defense: str, batch: int, words: str) -> None:
    observation, _ = update(defense, batch=batch, model=model, weights="random")
    with pytest.raises(UserError, match=words) as caught:
        attacked(April(), observation)
    assert "\n" not in str(caught.value)
