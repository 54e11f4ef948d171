"""The first block's LayerNorm and the weight that reads it, as the server knows them."""

from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from privbench.core import UserError
from privbench.models import Victim

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
    """

    scale: Tensor
    shift: Tensor
    qkv: Tensor
    qkv_name: str
    output_name: str

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
        if not (isinstance(norm, nn.LayerNorm) and norm.elementwise_affine and isinstance(qkv, nn.Linear) and directly):
            raise UserError(
                f"{type(network).__name__} does not feed its tokens through one LayerNorm into a joint query-key-value layer; "
                "choose a timm vit_* or deit_* model without pre_norm, or --attack closed-form"
            )
        return cls(
            scale=norm.weight.detach().double(),
            shift=norm.bias.detach().double(),
            qkv=qkv.weight.detach().double(),
            qkv_name="network.blocks.0.attn.qkv.weight",
            output_name="network.blocks.0.attn.proj.weight",
        )

    def centred(self, rows: Tensor) -> Tensor:
        """`γ ∘ C(row)` for each row `[rows, width]`."""
        return self.scale * centred(rows)


def centred(rows: Tensor) -> Tensor:
    """`C(row)`: each row without its mean."""
    without_mean: Tensor = rows - rows.mean(dim=-1, keepdim=True)
    return without_mean
