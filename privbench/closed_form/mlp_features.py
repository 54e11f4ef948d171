"""What the first block's MLP feeds its last layer, and the directions in which no token's features lie.

That layer's gradient is `∂W = Σ d aᵀ` over the tokens, with d the derivative by a token and a its hidden features. So the rows
of ∂W lie in the span of all a, and the complement of the rows is orthogonal to every a, but for as many directions as the
tokens outnumber the rank. A vision transformer has four times as many hidden features as its width and mostly more than
tokens, so each token obeys hundreds of equations, also where tokens outnumber the width and other gradients of the first block
tell nothing of single tokens. `activations` has the same for fewer tokens than the width, token by token; here all tokens with
their attention are one function. Ours; DAGER (Petrov et al., NeurIPS 2024) tests text tokens of a vocabulary in a like way.
"""

from copy import copy, deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn

from privbench.models import Victim

__all__ = ["MLP_OUTPUT", "MlpFeatures", "complement_of_rows"]

MLP_OUTPUT = "network.blocks.0.mlp.fc2.weight"
"""Parameter name of the layer whose gradient shows the features."""
_ROUNDING = 1e-6
"""Of float32: singular values below this share of the largest are zero."""


class _Kept(nn.Module):
    """Stands in for the MLP's last layer and keeps what that is fed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.features = torch.zeros(0)

    def forward(self, features: Tensor) -> Tensor:
        self.features = features
        return features[..., : self.width]


class MlpFeatures:
    """From the tokens that enter the first block to the features that its MLP feeds its last layer, in float64.

    Args:
        block: The first block; left as found.
        width: Of a token.
    """

    def __init__(self, block: nn.Module, width: int) -> None:
        copied: Any = deepcopy(block).double().eval().requires_grad_(False)
        self._kept = copied.mlp.fc2 = _Kept(width)
        for module in copied.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # has no forward-mode derivative
        self._block = copied

    @classmethod
    def of(cls, model: Victim) -> "MlpFeatures | None":
        """Those of a pre-norm vision transformer; None of other models."""
        network = cast(Any, model.network)
        block = next(iter(getattr(network, "blocks", ())), None)
        layer = getattr(getattr(block, "mlp", None), "fc2", None)
        directly = isinstance(getattr(network, "norm_pre", nn.Identity()), nn.Identity)
        if not (isinstance(layer, nn.Linear) and directly and isinstance(getattr(block, "norm1", None), nn.LayerNorm)):
            return None
        return cls(cast(nn.Module, block), layer.out_features)

    def rounded(self) -> "MlpFeatures":
        """The same in float32."""
        other = copy(self)
        other._block = deepcopy(self._block).float()
        other._kept = other._block.mlp.fc2
        return other

    def __call__(self, tokens: Tensor) -> Tensor:
        """`[tokens, width]` to `[tokens, hidden]`; differentiable in both modes."""
        self._block(tokens[None])
        return self._kept.features[0]


def complement_of_rows(gradient: Tensor) -> Tensor:
    """The directions that no row of a gradient has a part in.

    Args:
        gradient: `[width, hidden]`.

    Returns:
        `[hidden, hidden - rank]` float64, orthonormal columns.
    """
    _, sizes, rows = torch.linalg.svd(gradient.double(), full_matrices=True)
    rank = int((sizes > _ROUNDING * sizes[0]).sum())
    outside: Tensor = rows[rank:].T
    return outside
