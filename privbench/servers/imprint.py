"""Robbing the Fed (Fowl et al., ICLR 2022, arXiv 2110.13057): a layer in front of the model whose gradient holds single images.

Every row measures the same, the brightness of the image, and is cut off by a ReLU at another level. Two neighbouring rows
differ in the images whose brightness lies between their levels; where that is one image, the quotient of the differences of
weight and bias gradients is that image.
"""

from statistics import NormalDist
from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from privbench.core import Server, UserError

__all__ = ["Imprint", "ImprintServer"]


class Imprint(nn.Module):
    """Adds the mean of the active rows, scaled down, to every pixel: the model behind it works as before.

    Args:
        pixels: Values of one image.
        bins: Rows.
    """

    def __init__(self, pixels: int, bins: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(bins, pixels))
        self.bias = nn.Parameter(torch.zeros(bins))

    def forward(self, images: Tensor) -> Tensor:
        """`[batch, 3, height, width]`, normalised, to the same shape."""
        active = torch.relu(images.flatten(1) @ self.weight.T + self.bias)
        return images + _STRENGTH * active.mean(1)[:, None, None, None]


_STRENGTH = 1e-3
"""By how much a unit of the mean activation brightens the image that the model sees."""


def _imprinted(network: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return (cast(Any, network).imprint(given[0]), *given[1:])


class ImprintServer(Server):
    """Puts an imprint layer in front of an otherwise untouched model."""

    name: ClassVar[str] = "imprint"
    attack: ClassVar[str] = "imprint"

    bins: Annotated[int, Field(ge=2, le=65_536)] = 256
    """Rows, and levels of brightness."""
    brightness: float = 0.0
    """Expected mean of a normalised image."""
    spread: Annotated[float, Field(gt=0)] = 0.6
    """Expected deviation of it from image to image; where there are no public images, levels are quantiles of that normal
    distribution."""

    def prepare_model(self, model: nn.Module) -> None:
        """Adds the layer; the model's own parameters keep their names."""
        network, size = cast(Any, model).network, int(cast(Any, model).image_size)
        if hasattr(network, "imprint"):
            raise UserError("the model already has an imprint layer; load the honest model's weights")
        network.imprint = Imprint(3 * size * size, self.bins).to(next(network.parameters()))
        network.register_forward_pre_hook(_imprinted)

    def poison(self, model: nn.Module, generator: torch.Generator, public: Tensor | None = None) -> None:
        """The same measurement in every row, another level in each: quantiles of public images, or of a normal distribution."""
        victim = cast(Any, model)
        layer = cast(Imprint, victim.network.imprint)
        with torch.no_grad():
            layer.weight.fill_(1 / layer.weight.shape[1])
            layer.bias.copy_(-(self._normal_levels() if public is None else self._levels((public - victim.mean) / victim.std)))

    def _levels(self, normalised: Tensor) -> Tensor:
        brightness = normalised.flatten(1).double().mean(1)
        return torch.quantile(brightness, torch.linspace(0.001, 0.999, self.bins, dtype=torch.float64))

    def _normal_levels(self) -> Tensor:
        normal = NormalDist(self.brightness, self.spread)
        return torch.tensor([normal.inv_cdf((number + 0.5) / self.bins) for number in range(self.bins)])
