"""Parts of a model that a client trains: by name and by pattern, and what is no part of it."""

import pytest
import torch

from privbench.core import UserError
from privbench.models import Victim, build_model, default_spec
from privbench.models.parts import PARTS, trained_names


@pytest.fixture(scope="module")
def victim() -> Victim:
    with torch.device("meta"):
        return build_model(default_spec("vit_tiny_patch16_224"))


@pytest.mark.parametrize(
    ("text", "first", "count"),
    [
        ("head", "network.head.weight", 2),
        ("attention", "network.blocks.0.attn.qkv.weight", 48),
        ("embedding", "network.cls_token", 4),
        ("mlp", "network.blocks.0.mlp.fc1.weight", 48),
        ("norms", "network.blocks.0.norm1.weight", 50),
        ("norms+head", "network.blocks.0.norm1.weight", 52),
        ("blocks.1.attn.qkv.*", "network.blocks.1.attn.qkv.weight", 2),
        ("*", "network.cls_token", 152),
    ],
)
def test_a_part_is_its_parameters_in_the_models_order(victim: Victim, text: str, first: str, count: int) -> None:
    found = trained_names(victim, text)
    assert (found[0], len(found)) == (first, count)
    assert list(found) == [name for name, _ in victim.named_parameters() if name in found]


@pytest.mark.parametrize("text", ["heads", "", "attention+", "blocks.99.*", "network.head.weight"])
def test_what_chooses_nothing_is_refused_with_the_parts(victim: Victim, text: str) -> None:
    with pytest.raises(UserError, match=f"accepted: all, {', '.join(PARTS)}, or names with"):
        trained_names(victim, text)
