"""What crosses the wire where a client sends features of its images instead of an update: `FeatureObservation`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NoReturn

import torch
from torch import Tensor

from privbench.core.errors import UserError
from privbench.core.model_spec import ModelSpec
from privbench.core.spec import ComponentSpec
from privbench.core.threat_model import ThreatModel

__all__ = ["FeatureObservation"]


@dataclass(frozen=True)
class FeatureObservation:
    """All that an attacker gets who sees the features behind a block of a vision transformer (split inference).

    Attributes:
        features: `[batch, tokens, width]`, what block number `block` gives to the next one.
        block: Its number, from 1; 0 for the embedded tokens.
        model: The architecture.
        model_state: Parameters and buffers of the client's model, by name.
        threat_model: What the attacker may assume.
        defense: The defenses that the client declares, in order, public parameters included.
        disclosed: The defense's random choices, only for the `oracle` adversary; never an image.
    """

    features: Tensor
    block: int
    model: ModelSpec
    model_state: Mapping[str, Tensor]
    threat_model: ThreatModel = field(default_factory=ThreatModel)
    defense: tuple[ComponentSpec, ...] = ()
    disclosed: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", self.features.detach().clone())
        for name in ("model_state", "disclosed"):
            frozen = {key: value.detach().clone() for key, value in getattr(self, name).items()}
            object.__setattr__(self, name, MappingProxyType(frozen))
        if self.features.ndim != 3 or not self.features.numel():
            raise UserError(f"features of shape {tuple(self.features.shape)}; accepted: [batch, tokens, width]")
        if not torch.isfinite(self.features).all():
            raise UserError("the features are not finite; check the client's images and weights")

    @property
    def batch_size(self) -> int:
        """Number of images."""
        return len(self.features)

    @property
    def device(self) -> torch.device:
        """Where the features lie."""
        return self.features.device

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        return (3, self.model.image_size, self.model.image_size)

    @property
    def gradients(self) -> NoReturn:
        """None: whoever reads an update to infer a defense's choices finds none here.

        Raises:
            UserError: Always.
        """
        declared = "+".join(map(str, self.defense)) or "none"
        raise UserError(
            f"features hold no gradient, from which the aware adversary of defense {declared} infers the client's choices; "
            "choose --adversary unaware or oracle"
        )
