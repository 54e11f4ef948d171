"""Low-rank adapters (LoRA, Hu et al., ICLR 2022, arXiv 2106.09685) in a vision transformer of timm, by Hugging Face's peft.

peft does the wrapping; parameters keep its names (`blocks.0.attn.qkv.lora_A.default.weight`). This file says what of them the
first attention reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from privbench.core import UserError

__all__ = ["LowRank", "adds_to_layer", "with_lora"]


def adds_to_layer(module: Any) -> bool:
    """Whether a module is a layer that peft wrapped with plain LoRA, which adds to its weight and leaves all else as it is."""
    plain = not getattr(module, "lora_variant", {}) and not getattr(module, "lora_magnitude_vector", {})
    return plain and all(isinstance(getattr(module, name, None), nn.ModuleDict) for name in ("lora_A", "lora_B"))


def with_lora(
    network: nn.Module,
    rank: int,
    *,
    generator: torch.Generator,
    alpha: float | None = None,
    targets: Sequence[str] = ("qkv",),
    dora: bool = False,
) -> nn.Module:
    """The same network with adapters beside some of its layers: `W + alpha / rank * B A`, B zero at first.

    Args:
        network: Of timm; changed in place.
        rank: Of A `[rank, inputs]` and B `[outputs, rank]`.
        generator: Source of A.
        alpha: None: as `rank`.
        targets: Last parts of the names of the layers.
        dora: Whether rows have lengths of their own too (DoRA).

    Raises:
        UserError: peft is not installed, or there are no such layers.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise UserError(f"LoRA needs peft ({error}); install privbench[peft]") from None
    scale = cast(int, rank if alpha is None else alpha)
    config = LoraConfig(r=rank, lora_alpha=scale, target_modules=list(targets), use_dora=dora)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            # peft freezes what is below; here the client says what it trains (`observe(trains=...)`).
            adapted: nn.Module = inject_adapter_in_model(config, network)
    except ValueError as error:
        raise UserError(f"no adapters in {type(network).__name__}: {' '.join(str(error).split())[:160]}") from None
    return adapted.requires_grad_(True)


@dataclass(frozen=True)
class LowRank:
    """A linear layer with one adapter.

    Attributes:
        base: The layer below, frozen.
        down: A, `[rank, inputs]`.
        up: B, `[outputs, rank]`.
        scale: By what their product is multiplied.
        adapter: peft's name of the adapter.
        magnitude: `[outputs]`, the lengths that the rows of the whole weight have (DoRA, Liu et al., ICML 2024, arXiv
            2402.09353), times which they are normalised; None of plain LoRA.
    """

    base: nn.Linear
    down: Tensor
    up: Tensor
    scale: float
    adapter: str
    magnitude: Tensor | None = None

    @classmethod
    def of(cls, layer: Any) -> "LowRank | None":
        """Reads a layer that peft wrapped; None of any other layer, and of one with several adapters or of another kind."""
        base, down, up = (getattr(layer, name, None) for name in ("base_layer", "lora_A", "lora_B"))
        if not isinstance(base, nn.Linear) or not isinstance(down, nn.ModuleDict) or not isinstance(up, nn.ModuleDict):
            return None
        if len(down) != 1 or any("Dora" not in type(one).__name__ for one in getattr(layer, "lora_variant", {}).values()):
            return None
        (adapter,) = down
        lengths = getattr(layer, "lora_magnitude_vector", {})
        magnitude = lengths[adapter].weight.detach().double() if adapter in lengths else None
        first, second = cast(nn.Linear, down[adapter]), cast(nn.Linear, up[adapter])
        return cls(base, first.weight.detach(), second.weight.detach(), float(layer.scaling[adapter]), adapter, magnitude)

    @property
    def weight(self) -> Tensor:
        """`[outputs, inputs]` of the layer that it makes up, float64."""
        whole = self.base.weight.detach().double() + self.scale * self.up.double() @ self.down.double()
        # A row's length is no part of its derivative: peft detaches it, as the paper does.
        return whole if self.magnitude is None else whole * (self.magnitude / whole.norm(dim=1))[:, None]
