"""The client's model behind one contract: images in [0, 1] in, logits out.

Normalisation lives in here, so that attacks and scores never see another range. For vision transformers the wrapper also owns
the position-embedding variants of the papers: learned, none, and learned with the shared "unknown" row of MJP
(Ren et al., CVPR 2023).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from privbench.core import Normalisation, UserError
from privbench.models.lora import adds_to_layer

__all__ = ["TransformerParts", "Victim"]


_LATE_CLASS_TOKEN = frozenset({"Cait", "ConVit"})
"""Architectures whose class token joins the patches in a later block."""


@dataclass(frozen=True)
class TransformerParts:
    """Names of the parameters that attacks on vision transformers speak of.

    Attributes:
        position: Position-embedding table `[1, rows, width]`; None where the model has none.
        prefix_tokens: Rows of the table before the first patch: 1 for a class token that has one.
        prefix_names: The learned tokens before the patches, `[1, tokens, width]` each, in the order in which they stand;
            with `prefix_tokens` 0 they have no position.
        patch_weight: Patch-embedding convolution `[width, 3, patch, patch]`.
        patch_bias: Its bias.
    """

    position: str | None
    prefix_tokens: int
    prefix_names: tuple[str, ...]
    patch_weight: str
    patch_bias: str


class _FirstBlocks(nn.Module):
    """A vision transformer's embedding and first blocks: normalised images to tokens."""

    def __init__(self, network: nn.Module, count: int) -> None:
        super().__init__()
        self.network = network
        self.count = count

    def forward(self, normalised: Tensor) -> Tensor:
        """`[batch, tokens, width]`, prefix tokens first."""
        (found,) = cast(Any, self.network).forward_intermediates(
            normalised,
            indices=[self.count - 1],
            return_prefix_tokens=True,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        # Patches and prefix tokens apart, or patches alone where there is no prefix.
        return torch.cat([found[1], found[0]], dim=1) if isinstance(found, tuple) else cast(Tensor, found)


class Victim(nn.Module):
    """A classifier over images in [0, 1].

    Args:
        network: A timm-style classifier over normalised images.
        image_size: Height and width of its input in pixels.
        mean: Per-channel mean of the normalisation.
        std: Per-channel standard deviation of the normalisation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, *, image_size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.image_size = image_size
        self.has_unknown_position = False
        self.has_index_embedding = False
        self.changed_after_training = False
        """Whether a defense added or removed parameters of weights that were trained without it."""
        self.classifier_drawn = False
        """Whether the trained weights had no classifier, so that this one was drawn at random."""
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @property
    def flags(self) -> tuple[str, ...]:
        """What a reader of any number of this victim must know of its weights."""
        found = {"defense-added-after-training": self.changed_after_training, "classifier-drawn": self.classifier_drawn}
        return tuple(flag for flag, is_set in found.items() if is_set)

    def forward(
        self,
        images: Tensor,
        unknown_positions: Tensor | None = None,
        layer_noise: Mapping[str, Tensor] | None = None,
        blocks: int | None = None,
    ) -> Tensor:
        """Classifies images, or goes a part of the way.

        Args:
            images: `[batch, 3, image_size, image_size]` in [0, 1].
            unknown_positions: `[patches]` bool; these patches get the unknown position row.
            layer_noise: Stands in for buffers of the network in this pass: name to `[draws, batch, ...]`; where some layers
                have several draws, one draw serves for all of them.
            blocks: After how many transformer blocks to stop; None: the whole network.

        Returns:
            `[batch, classes]` logits, the mean over the draws; with `blocks` `[batch, tokens, width]` after these, prefix
            tokens first.

        Raises:
            UserError: Unknown positions are asked of a model without an unknown row, or noise of one without random layers.
        """
        normalised = (images - self.mean) / self.std
        exchanged: dict[str, Tensor] = {}
        if self.has_unknown_position:
            # timm adds network.pos_embed as it is; for this one pass it is the table with the masked rows exchanged.
            exchanged["pos_embed"] = self._positions_used(unknown_positions)
        elif unknown_positions is not None:
            raise UserError("this model has no unknown position row; train it with a defense that has one (mjp)")
        if self.has_index_embedding:
            table = exchanged.get("pos_embed", self._position_table())
            exchanged["pos_embed"] = table + cast(Tensor, cast(Any, self.network).index_embed)
        draws = 1
        if layer_noise:
            self._require_buffers(layer_noise)
            draws = max(map(len, layer_noise.values()))
            normalised = normalised.repeat(draws, 1, 1, 1)
            exchanged |= {name: noise.expand(draws, *noise.shape[1:]).flatten(0, 1) for name, noise in layer_noise.items()}
        network = self.network
        if blocks is not None:
            network = _FirstBlocks(network, blocks)
            exchanged = {f"network.{name}": value for name, value in exchanged.items()}
        if not exchanged:
            return cast(Tensor, network(normalised))
        found = torch.func.functional_call(network, exchanged, (normalised,))
        return cast(Tensor, found.unflatten(0, (draws, len(images))).mean(0) if draws > 1 else found)

    def _require_buffers(self, layer_noise: Mapping[str, Tensor]) -> None:
        # functional_call passes over names that it does not find.
        surplus = sorted(layer_noise.keys() - dict(self.network.named_buffers()).keys())
        if surplus:
            raise UserError(f"this model has no random layer {surplus[0]}; prepare it with the defense that drew the noise")

    def normalise_by(self, normalisation: Normalisation) -> None:
        """Exchanges mean and standard deviation of the input."""
        self.mean = torch.tensor(normalisation.mean).view(3, 1, 1).to(self.mean)
        self.std = torch.tensor(normalisation.std).view(3, 1, 1).to(self.std)

    # Position embeddings

    def remove_positions(self) -> None:
        """Takes the position embedding out of the architecture.

        Raises:
            UserError: The model has no learned position embedding.
        """
        self._require_learned_positions("no-pe")
        network = cast(Any, self.network)
        table = network.pos_embed.detach()
        # Zeros and not None, which few architectures foresee; they are no weights, and no part of the state.
        del network.pos_embed
        network.register_buffer("pos_embed", torch.zeros_like(table), persistent=False)

    def add_unknown_position(self) -> None:
        """Appends the shared unknown row to the position table: `[1, prefix + patches + 1, width]` (MJP).

        Raises:
            UserError: The model has no learned position embedding.
        """
        self._require_learned_positions("mjp")
        table = self._position_table().detach()
        row = torch.zeros_like(table[:, :1])
        cast(Any, self.network).pos_embed = nn.Parameter(torch.cat([table, row], dim=1))
        self.has_unknown_position = True

    def add_index_embedding(self) -> None:
        """Adds a second table `[1, prefix + patches, width]`, whose rows no mask exchanges (an ablation of MJP).

        Raises:
            UserError: The model has no learned position embedding.
        """
        self._require_learned_positions("mjp")
        rows = self.patch_count + self.parts().prefix_tokens
        table = self._position_table().detach()
        cast(Any, self.network).index_embed = nn.Parameter(0.02 * torch.randn(1, rows, table.shape[2]).to(table))
        self.has_index_embedding = True

    def patch_positions(self) -> Tensor:
        """The rows of the patches in the position table, `[patches, width]`, with gradient."""
        table = self._position_table()[0]
        prefix = self.parts().prefix_tokens
        return table[prefix : prefix + self.patch_count]

    def _position_table(self) -> Tensor:
        return cast(Tensor, cast(Any, self.network).pos_embed)

    def _positions_used(self, unknown_positions: Tensor | None) -> Tensor:
        table = self._position_table()
        known, unknown = table[:, :-1], table[:, -1:]
        if unknown_positions is None:
            return known
        # Counted from the table: in a functional pass it is a tensor that `parts` does not take for a parameter.
        prefix = known.shape[1] - self.patch_count
        masked = nn.functional.pad(unknown_positions, (prefix, 0), value=False)
        return torch.where(masked[:, None], unknown, known)

    def _require_learned_positions(self, defense: str) -> None:
        if self.patch_size is None or self._learned_table() is None:
            raise UserError(
                f"defense {defense} needs a vision transformer with a learned position embedding, "
                f"given {type(self.network).__name__}; choose another model or defense"
            )

    # Anatomy

    @property
    def patch_size(self) -> int | None:
        """Side of a patch in pixels; None for a model without patches."""
        projection = getattr(getattr(self.network, "patch_embed", None), "proj", None)
        projection = cast(Any, projection).base_layer if adds_to_layer(projection) else projection
        if not isinstance(projection, nn.Conv2d) or not hasattr(self.network, "cls_token"):
            return None
        size, channels = projection.kernel_size[0], projection.in_channels
        # A stem of convolutions or overlapping patches leaves no patches of the image.
        plain = projection.kernel_size == projection.stride == (size, size) and channels == 3 and projection.groups == 1
        return size if plain and set(projection.padding) == {0} else None

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of patches; None for a model without patches."""
        size = self.patch_size
        return (self.image_size // size, self.image_size // size) if size else None

    @property
    def patch_count(self) -> int:
        """Number of patches of one image; 0 for a model without patches."""
        return self.grid[0] * self.grid[1] if self.grid else 0

    def parts(self) -> TransformerParts:
        """Parameter names of a vision transformer.

        Raises:
            UserError: The model is not a vision transformer.
        """
        if self.patch_size is None:
            raise UserError(
                f"{type(self.network).__name__} is not a vision transformer that cuts the image itself into patches; choose a "
                "timm vit_* or deit_* model"
            )
        table = self._learned_table()
        unknown = int(self.has_unknown_position)
        embedded = "network.patch_embed.proj" + (
            ".base_layer" if adds_to_layer(cast(Any, self.network).patch_embed.proj) else ""
        )
        return TransformerParts(
            position=None if table is None else "network.pos_embed",
            prefix_tokens=0 if table is None else table.shape[1] - self.patch_count - unknown,
            prefix_names=() if type(self.network).__name__ in _LATE_CLASS_TOKEN else self._prefix_names(),
            patch_weight=f"{embedded}.weight",
            patch_bias=f"{embedded}.bias",
        )

    def _classifier(self) -> nn.Module | None:
        """What timm calls the classifier, the first where there are two; None where the network does not say."""
        get = getattr(self.network, "get_classifier", None)
        found = get() if callable(get) else None
        found = found[0] if isinstance(found, tuple | nn.ModuleList) and len(found) else found
        return found if isinstance(found, nn.Linear) else None

    def _prefix_names(self) -> tuple[str, ...]:
        names = ("cls_token", "dist_token", "reg_token")
        return tuple(f"network.{name}" for name in names if isinstance(getattr(self.network, name, None), nn.Parameter))

    def _learned_table(self) -> nn.Parameter | None:
        """The table `[1, rows, width]` that is added to the tokens, a row for each patch and for some prefix tokens."""
        table = getattr(self.network, "pos_embed", None)
        if not isinstance(table, nn.Parameter) or table.ndim != 3:
            return None
        surplus = table.shape[1] - self.patch_count - int(self.has_unknown_position)
        tokens = sum(self.get_parameter(name).shape[1] for name in self._prefix_names())
        return table if surplus in {0, tokens} else None

    def classifier_names(self) -> tuple[str, str]:
        """Names of the last layer's weight `[classes, width]` and bias `[classes]`.

        Raises:
            UserError: The last layer is not linear with a bias.
        """
        classifier = self._classifier()
        for name, module in reversed(list(self.named_modules())):
            if isinstance(module, nn.Linear) and module.bias is not None and classifier in (None, module):
                return f"{name}.weight", f"{name}.bias"
        raise UserError(f"{type(self.network).__name__} has no linear classifier with a bias; labels cannot be recovered")
