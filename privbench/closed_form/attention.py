"""The first block's attention as a closed form reads it: from tokens before it to tokens after it, and its parts.

A token leaves as `z' = z + W_proj o + b`, where o stacks what each head puts out, a mean of values weighted by likeness.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from privbench.closed_form.algebra import class_token
from privbench.models import Victim

__all__ = ["FirstAttention"]


@dataclass(frozen=True)
class FirstAttention:
    """The first attention in one precision, its class token included.

    Attributes:
        norm: The LayerNorm before it.
        attention: timm's attention module.
        class_token: `[1, width]`, with its position row.
    """

    norm: nn.Module
    attention: Any
    class_token: Tensor

    @classmethod
    def of(cls, model: Victim, dtype: torch.dtype = torch.float64) -> "FirstAttention":
        """A copy of the model's own.

        Args:
            model: A vision transformer with one class token.
            dtype: Of the copy.
        """
        block = deepcopy(cast(Any, model.network).blocks[0]).to(dtype)
        return cls(block.norm1, block.attn, class_token(model).to(dtype))

    @property
    def heads(self) -> int:
        """Number of heads."""
        return cast(int, self.attention.num_heads)

    def parts(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (scaled), keys and values of tokens `[..., tokens, width]`: `[..., heads, tokens, head width]` each."""
        attention = self.attention
        split = attention.qkv(self.norm(tokens)).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-3, -2)
        query, key, value = split.unbind(0)
        return attention.q_norm(query) * attention.scale, attention.k_norm(key), value

    def outputs(self, tokens: Tensor) -> Tensor:
        """What the heads put out, `[..., tokens, width]`, of tokens of the same shape that attend to each other."""
        query, key, value = self.parts(tokens)
        mixed: Tensor = (query @ key.mT).softmax(dim=-1) @ value
        return mixed.transpose(-3, -2).flatten(-2)

    def after(self, tokens: Tensor) -> Tensor:
        """The tokens of images behind the attention, without their class token.

        Args:
            tokens: `[..., patches, width]`, of the patches of one image each.

        Returns:
            The same shape.
        """
        first = self.class_token.expand(*tokens.shape[:-2], 1, -1)
        whole = self.attention.proj(self.outputs(torch.cat([first, tokens], dim=-2)))
        after: Tensor = tokens + whole[..., 1:, :]
        return after
