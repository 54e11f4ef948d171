"""From patches to tokens, and what an update says of tokens by itself: what every closed form starts from.

In the notation of this room a patch `x` (flattened, normalised pixels) becomes the token `z = W x + b + PE`, the first block
sees `u = γ ∘ C(z)/σ + β` (LayerNorm; `C` subtracts the mean), and `δ` is the gradient of a token. Everything is solved in
float64 from the gradient as sent.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from privbench.core import Observation, UserError
from privbench.core.patches import from_patches
from privbench.models import Victim
from privbench.models.lora import adds_to_layer

__all__ = ["PatchEmbedding", "require_tokens", "sum_of_shared_row", "token_gradients"]


@dataclass(frozen=True)
class PatchEmbedding:
    """From patches to tokens, as the server knows it, in float64.

    Attributes:
        weight: `[width, pixels]`, the convolution as a matrix over normalised pixels, channel by channel.
        bias: `[width]`.
        positions: `[patches, width]`, the position rows of the patches; zeros where the model has none.
        unknown: `[width]`, the row that masked patches share (MJP); None where the model has none.
        prefix: `[tokens, width]`, the tokens before the patches (class token, registers) as they enter the first block: no
            secret, the same for every image.
        patch_size: Side of a patch in pixels.
        image_size: Side of an image in pixels.
        mean: `[3, 1, 1]` of the normalisation.
        std: `[3, 1, 1]` of the normalisation.
    """

    weight: Tensor
    bias: Tensor
    positions: Tensor
    unknown: Tensor | None
    prefix: Tensor
    patch_size: int
    image_size: int
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, model: Victim) -> "PatchEmbedding":
        """Reads it off a vision transformer.

        Raises:
            UserError: The model is no vision transformer.
        """
        parts, state = model.parts(), {name: value.detach().double() for name, value in model.named_parameters()}
        weight = state[parts.patch_weight]
        layer = cast(Any, model.network).patch_embed.proj
        if adds_to_layer(layer):
            weight = weight + sum(layer.get_delta_weight(name).detach().double() for name in layer.active_adapters)
        absent = weight.new_zeros(parts.prefix_tokens + model.patch_count, len(weight))
        table = absent if parts.position is None else state[parts.position][0]
        prefix = torch.cat([weight.new_zeros(0, len(weight)), *(state[name][0] for name in parts.prefix_names)])
        if parts.prefix_tokens:
            prefix = prefix + table[: parts.prefix_tokens]
        bias = state.get(parts.patch_bias, torch.zeros_like(weight[:, 0, 0, 0]))
        return cls(
            weight=weight.flatten(1),
            bias=bias,
            positions=table[parts.prefix_tokens : parts.prefix_tokens + model.patch_count],
            unknown=table[-1] if model.has_unknown_position else None,
            prefix=prefix,
            patch_size=cast(int, model.patch_size),
            image_size=model.image_size,
            mean=model.mean.double(),
            std=model.std.double(),
        )

    @property
    def token_count(self) -> int:
        """Tokens of an image, those before the patches included."""
        return len(self.positions) + len(self.prefix)

    def images(self, patches: Tensor) -> Tensor:
        """Normalised patches `[patches, pixels]` as one float32 image `[1, 3, height, width]`, clipped to [0, 1]."""
        return self.pixels(patches).clamp(0, 1).float()

    def pixels(self, patches: Tensor) -> Tensor:
        """The same in float64, not clipped."""
        cut = patches.reshape(1, -1, 3, self.patch_size, self.patch_size)
        return from_patches(cut, self.image_size, self.image_size) * self.std + self.mean

    def clipped(self, patches: Tensor) -> Tensor:
        """Normalised patches `[patches, pixels]`, moved to where all their pixels are in [0, 1]."""
        std, mean = self.std.flatten(1), self.mean.flatten(1)
        pixels = (patches.reshape(len(patches), 3, -1) * std + mean).clamp(0, 1)
        return ((pixels - mean) / std).flatten(1)

    def excess(self, patches: Tensor) -> Tensor:
        """By how much each normalised patch `[patches, pixels]` leaves [0, 1] at most: `[patches]`, 0 where it stays inside."""
        pixels = patches.reshape(len(patches), 3, -1) * self.std.flatten(1) + self.mean.flatten(1)
        return (pixels - pixels.clamp(0, 1)).abs().flatten(1).amax(dim=1)


def require_tokens(observation: Observation, model: Victim, attack: str) -> None:
    """Checks what every closed form needs: a vision transformer, a learned position row for each patch, a batch of one.

    Raises:
        UserError: One of them is missing.
    """
    if model.parts().position is None:
        raise UserError(
            f"attack {attack} needs a learned position embedding, which {observation.model.name} with defense "
            f"{observation.defense_text} does not have; choose --attack gradvit"
        )
    shape, size = tuple(model.get_parameter(model.parts().patch_weight).shape[1:]), model.patch_size
    if shape != (3, size, size) or model.image_size % (size or 1):
        raise UserError(
            f"attack {attack} needs patches that are cut from the image itself and fill it; {observation.model.name} embeds "
            f"{'x'.join(map(str, shape))} values for patches of {size} pixels in {model.image_size}; choose another model"
        )
    if observation.batch_size > 1:
        raise UserError(
            f"attack {attack} takes one image per update, given {observation.batch_size}, because images share position rows; "
            "choose --batch-size 1 or --attack token-search"
        )


def token_gradients(model: Victim, observation: Observation) -> Tensor:
    """The gradients δ of the patches' tokens, read off the position table of a batch of one.

    Returns:
        `[patches, width]` float64; rows of patches that use a shared row instead are exactly zero.
    """
    parts = model.parts()
    table = observation.gradients[cast(str, parts.position)][0].double()
    return table[parts.prefix_tokens : parts.prefix_tokens + model.patch_count]


def sum_of_shared_row(model: Victim, observation: Observation) -> Tensor:
    """`[1, width]` float64: the sum of δ over the patches that share the unknown row (MJP)."""
    return observation.gradients[cast(str, model.parts().position)][0, -1:].double()
