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
        epsilon: What the LayerNorm adds to the variance.
        qkv: `[3 width, width]`, the weight of queries, keys and values.
        qkv_name: Its parameter name.
        output_name: Parameter name of the attention's output projection `[width, width]`.
        adapter: Of LoRA beside that weight, which is then frozen; None of an ordinary layer.
    """

    scale: Tensor
    shift: Tensor
    epsilon: float
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
            epsilon=norm.eps,
            qkv=cast(nn.Linear, qkv).weight.detach().double() if adapter is None else adapter.weight,
            qkv_name="network.blocks.0.attn.qkv.weight",
            output_name="network.blocks.0.attn.proj.weight",
            adapter=adapter,
        )

    @property
    def span_name(self) -> str:
        """The parameter whose gradient's rows span the tokens, or what A makes of them: the weight, or the adapter's B."""
        return self.qkv_name if self.adapter is None else self._part("B")

    @property
    def down_name(self) -> str:
        """The adapter's A, whose gradient's rows are combinations of the tokens."""
        return self._part("A")

    def _part(self, letter: str) -> str:
        return f"{self.qkv_name.removesuffix('weight')}lora_{letter}.{cast(LowRank, self.adapter).adapter}.weight"

    def equations(self, tokens: int) -> int:
        """How many linear equations each normalised token obeys: what is left of the width, or of an adapter's rank."""
        width, adapter = len(self.scale), self.adapter
        return (width if adapter is None else len(adapter.down)) - tokens

    def token_space(self, observation: Observation, tokens: int) -> RowSpace:
        """What is known of the span of the normalised tokens: its complement, as far as the gradients show it.

        LoRA: with `G = Σ δ xᵀ`, `∂B = s G Aᵀ`. Its rows span what A makes of the tokens: what is orthogonal to them is so, read
        through A, to every token. (`∂A = s Bᵀ G`, whose rows are few and unequal combinations of tokens, tells less exactly:
        `combinations`.)

        Args:
            observation: With the gradient of `span_name`.
            tokens: Their number, below the rank of an adapter.
        """
        given = observation.gradients[self.span_name].double()
        below = row_space(given, tokens)
        if self.adapter is None:
            return below
        _, _, right = torch.linalg.svd(below.complement @ self.adapter.down.double(), full_matrices=False)
        return replace(below, complement=right)

    def centred(self, rows: Tensor) -> Tensor:
        """`γ ∘ C(row)` for each row `[rows, width]`."""
        return self.scale * centred(rows)


def centred(rows: Tensor) -> Tensor:
    """`C(row)`: each row without its mean."""
    without_mean: Tensor = rows - rows.mean(dim=-1, keepdim=True)
    return without_mean
