"""Names of vision transformers: torchvision's `vit_*`, Hugging Face's ViT, DINOv2 and CLIP vision towers, as timm has them.

Query, key and value are one matrix in timm; where a library keeps three, they are joined. What timm's model has no place for
(a pooler, a mask token) is left out.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from privbench.core import canonical_names, short_name

__all__ = ["in_names_of_timm"]

_TORCHVISION = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
)
_HUGGING_FACE = (
    (r"^(?:vit|dinov2|dinov2_with_registers|vision_model)\.", ""),
    (r"^embeddings\.(?:cls_token|class_embedding)$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.(?:position_embeddings|position_embedding\.weight)$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^(?:encoder\.)?layers?\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.(?:self_attn|attention)\.(q|k|v)_proj\.", r".attn.\1."),  # ViT and DINOv2 since transformers 5
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.(?:layernorm_before|layer_norm1)\.", ".norm1."),
    (r"\.(?:layernorm_after|layer_norm2)\.", ".norm2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^(?:layernorm|post_layernorm)\.", "norm."),
    (r"^(?:classifier|visual_projection)\.", "head."),
)
_LEFT_OUT = re.compile(r"^(pooler\.|embeddings\.mask_token$|.*position_ids$|text_model\.|text_projection\.|logit_scale$)")
_PARTS = (("query", "key", "value"), ("q", "k", "v"))


def in_names_of_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors by timm's names, without a wrapper's prefix; unchanged where they are of no library known here.

    Args:
        tensors: Weights, or an update of them, by any of the libraries' names.

    Raises:
        UserError: Two names become one.
    """
    plain = {short_name(name): value for name, value in canonical_names(tensors).items()}
    if any(name.startswith(("conv_proj.", "encoder.layers.encoder_layer_", "heads.head.")) for name in plain):
        return _renamed(plain, _TORCHVISION)
    hugging = ("embeddings.", "vit.", "dinov2.", "dinov2_with_registers.", "vision_model.", "encoder.layer.")
    if any(name.startswith(hugging) for name in plain):
        return _joined(_renamed(plain, _HUGGING_FACE))
    return plain


def _renamed(tensors: Mapping[str, Tensor], rules: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for given, value in tensors.items():
        name = given
        for pattern, to in rules:
            name = re.sub(pattern, to, name)
        if not _LEFT_OUT.match(name):
            found[name] = _shaped(name, value)
    return found


def _shaped(name: str, value: Tensor) -> Tensor:
    """Tokens and position table with the leading dimensions that timm gives them."""
    if name == "cls_token":
        return value.reshape(1, 1, -1)
    return value[None] if name == "pos_embed" and value.dim() == 2 else value


def _joined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value as one; an incomplete set is left out, because the joint gradient is then not known."""
    found = {name: value for name, value in tensors.items() if not re.search(r"\.attn\.(query|key|value|q|k|v)\.", name)}
    for parts in _PARTS:
        for name in tensors:
            if f".attn.{parts[0]}." not in name:
                continue
            three = [tensors.get(name.replace(f".attn.{parts[0]}.", f".attn.{part}.")) for part in parts]
            present = [value for value in three if value is not None]
            if len(present) == len(parts):
                found[name.replace(f".attn.{parts[0]}.", ".attn.qkv.")] = torch.cat(present)
    return found
