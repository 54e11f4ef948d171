"""The first block's LayerNorm and the weight that reads it, as the server knows them."""

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from privbench.closed_form.row_space import RowSpace, row_space
from privbench.core import Observation, UserError
from privbench.models import Victim
from privbench.models.lora import LowRank

__all__ = ["FirstBlock", "centred"]


@dataclass(frozen=True)
class FirstBlock:
    """The first block's LayerNorm and the weight that reads it.

    Attributes:
        scale: `[width]`, γ.
        shift: `[width]`, β.
        qkv: `[3 width, width]`, the weight of queries, keys and values.
        qkv_name: Its parameter name.
        output_name: Parameter name of the attention's output projection `[width, width]`.
        adapter: Of LoRA beside that weight, which is then frozen; None of an ordinary layer.
    """

    scale: Tensor
    shift: Tensor
    qkv: Tensor
    qkv_name: str
    output_name: str
    adapter: LowRank | None = None

    @classmethod
    def of(cls, model: Victim) -> "FirstBlock":
        """Reads it off a pre-norm vision transformer.

        Raises:
            UserError: Something else than one LayerNorm lies between the tokens and the first attention.
        """
        network = cast(Any, model.network)
        block = next(iter(getattr(network, "blocks", ())), None)
        norm, qkv = getattr(block, "norm1", None), getattr(getattr(block, "attn", None), "qkv", None)
        directly = isinstance(getattr(network, "norm_pre", nn.Identity()), nn.Identity)
        adapter = LowRank.of(qkv)
        linear = isinstance(qkv, nn.Linear) or adapter is not None
        if not (isinstance(norm, nn.LayerNorm) and norm.elementwise_affine and linear and directly):
            raise UserError(
                f"{type(network).__name__} does not feed its tokens through one LayerNorm into a joint query-key-value layer; "
                "choose a timm vit_* or deit_* model without pre_norm, or --attack closed-form"
            )
        return cls(
            scale=norm.weight.detach().double(),
            shift=norm.bias.detach().double(),
            qkv=cast(nn.Linear, qkv).weight.detach().double() if adapter is None else adapter.weight,
            qkv_name="network.blocks.0.attn.qkv.weight",
            output_name="network.blocks.0.attn.proj.weight",
            adapter=adapter,
        )

    @property
    def sent_names(self) -> tuple[str, ...]:
        """Parameters whose gradients tell of the tokens: the weight, or both parts of the adapter."""
        if self.adapter is None:
            return (self.qkv_name,)
        layer = self.qkv_name.removesuffix("weight")
        return tuple(f"{layer}lora_{part}.{self.adapter.adapter}.weight" for part in "AB")

    def equations(self, tokens: int) -> int:
        """How many linear equations each normalised token obeys: what is left of the width, or of an adapter's rank."""
        width, adapter = len(self.scale), self.adapter
        return (width if adapter is None or self._reaches(tokens) else len(adapter.down)) - tokens

    def _reaches(self, tokens: int) -> bool:
        """Whether B lets the gradient of A show all tokens."""
        up = cast(LowRank, self.adapter).up.double()
        return up.shape[1] > tokens and int(torch.linalg.matrix_rank(up)) >= tokens

    def token_space(self, observation: Observation, tokens: int) -> RowSpace:
        """What is known of the span of the normalised tokens: its complement, as far as the gradients show it.

        LoRA: with `G = Σ δ xᵀ`, `∂A = s Bᵀ G` and `∂B = s G Aᵀ`. The rows of ∂A lie in the span of the tokens, and are all of
        it where the rank of B is not below their number. Those of ∂B span what A makes of the tokens: what is orthogonal to
        them is so, read through A, to every token.

        Args:
            observation: With the gradients of `sent_names`.
            tokens: Their number, below the rank of an adapter.
        """
        first, *second = [observation.gradients[name].double() for name in self.sent_names]
        if self.adapter is None or self._reaches(tokens):
            return row_space(first, tokens)
        below = row_space(second[0], tokens)
        _, _, right = torch.linalg.svd(below.complement @ self.adapter.down.double(), full_matrices=False)
        return replace(below, complement=right)

    def centred(self, rows: Tensor) -> Tensor:
        """`γ ∘ C(row)` for each row `[rows, width]`."""
        return self.scale * centred(rows)


def centred(rows: Tensor) -> Tensor:
    """`C(row)`: each row without its mean."""
    without_mean: Tensor = rows - rows.mean(dim=-1, keepdim=True)
    return without_mean
