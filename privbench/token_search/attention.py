"""The first block's attention as a closed form reads it: from tokens before it to tokens after it, and its parts.

A token leaves as `z' = z + W_proj o + b`, where o stacks what each head puts out, a mean of values weighted by likeness.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from privbench.closed_form.embedding import PatchEmbedding
from privbench.models import Victim

__all__ = ["FirstAttention"]


@dataclass(frozen=True)
class FirstAttention:
    """The first attention in one precision, the tokens before the patches included.

    Attributes:
        norm: The LayerNorm before it.
        attention: timm's attention module.
        scaling: What scales its output before that is added to the tokens.
        prefix: `[tokens, width]`, class token and registers with their position rows, the same in every image.
    """

    norm: nn.Module
    attention: Any
    scaling: nn.Module
    prefix: Tensor

    @classmethod
    def of(cls, model: Victim, dtype: torch.dtype = torch.float64) -> "FirstAttention":
        """A copy of the model's own.

        Args:
            model: A vision transformer.
            dtype: Of the copy.
        """
        block = deepcopy(cast(Any, model.network).blocks[0]).to(dtype)
        return cls(block.norm1, block.attn, block.ls1, PatchEmbedding.of(model).prefix.to(dtype))

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

    def changes(self, tokens: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
        """By how much keys and values change where tokens move; for attention that does not normalise its keys.

        Args:
            tokens: `[tokens, width]`.
            moves: `[width, moves]`.

        Returns:
            `[tokens, heads, head width, moves]` each.
        """
        norm = cast(nn.LayerNorm, self.norm)
        spread = (tokens.var(dim=1, correction=0) + norm.eps).sqrt()[:, None]
        unit = (tokens - tokens.mean(dim=1, keepdim=True)) / spread
        across = moves - moves.mean(dim=0)
        turned = across - unit[..., None] * (unit @ across)[:, None] / tokens.shape[1]
        read = self.attention.qkv.weight[tokens.shape[1] :] * norm.weight
        both = (read @ (turned / spread[..., None])).reshape(len(tokens), 2, self.heads, -1, moves.shape[1])
        return both[:, 0], both[:, 1]

    def outputs(self, tokens: Tensor) -> Tensor:
        """What the heads put out, `[..., tokens, width]`, of tokens of the same shape that attend to each other."""
        query, key, value = self.parts(tokens)
        mixed: Tensor = (query @ key.mT).softmax(dim=-1) @ value
        return mixed.transpose(-3, -2).flatten(-2)

    def after(self, tokens: Tensor) -> Tensor:
        """The tokens of images behind the attention, those of the prefix left out.

        Args:
            tokens: `[..., patches, width]`, of the patches of one image each.

        Returns:
            The same shape.
        """
        first = self.prefix.expand(*tokens.shape[:-2], -1, -1)
        whole = self.scaling(self.attention.proj(self.outputs(torch.cat([first, tokens], dim=-2))))
        after: Tensor = tokens + whole[..., len(self.prefix) :, :]
        return after
