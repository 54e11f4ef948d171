"""What crosses the wire, and under which assumptions: `Observation`, `ThreatModel`, and the sealed `Secret`.

An attack sees an `Observation` and nothing else; it can be saved to one safetensors file and attacked on another machine.
The `Secret` is made beside it by the client and is opened by scoring alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from privbench.core.component import one_line
from privbench.core.errors import UserError

__all__ = ["Adversary", "ModelInput", "ModelSpec", "Observation", "Secret", "ThreatModel"]


Adversary = Literal["unaware", "aware", "oracle"]
"""`unaware` simulates the undefended forward pass, `aware` knows the defense and its public parameters and infers its random
choices, `oracle` is also told those choices, never the image."""


class ThreatModel(BaseModel):
    """What the attacker is assumed to know; every field is a column of the leaderboard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: Literal["recovered", "known"] = "recovered"
    """`recovered`: the attack must find the labels in the gradient; `known`: they are part of the observation."""
    model_mode: Literal["eval", "train"] = "eval"
    """Mode of the client's model while it computes the gradient (dropout and the like)."""
    adversary: Adversary = "unaware"
    """What the attacker knows of the defense."""


class ModelSpec(BaseModel):
    """The architecture that the server sent, enough to rebuild the module; the weights travel as `Observation.model_state`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    num_classes: int = Field(gt=1)
    image_size: int = Field(gt=0)
    """Height and width of the input in pixels."""


@dataclass(frozen=True)
class ModelInput:
    """What one forward pass consumes.

    Attributes:
        images: `[batch, 3, height, width]` in [0, 1].
        unknown_positions: `[patches]` bool, the patches whose position embedding is the shared "unknown" row; None where
            the defense has none. Patches count row by row.
        layer_noise: What layers inside the network take for this pass, a random draw or a mask: name of the network's buffer
            to `[draws, batch, ...]`, one value per image. The logits are the mean over the draws; a client makes one.
        label_mixing: `[batch, batch]`, rows that sum to one: the target of each sample as a mixture of the batch's labels;
            None where every sample has its own label.
    """

    images: Tensor
    unknown_positions: Tensor | None = None
    layer_noise: Mapping[str, Tensor] = field(default_factory=dict)
    label_mixing: Tensor | None = None

    @property
    def arguments(self) -> tuple[Tensor, Tensor | None, Mapping[str, Tensor]]:
        """The same as the victim's forward pass takes it, in order."""
        return self.images, self.unknown_positions, self.layer_noise

    def with_noise(self, noise: Mapping[str, Tensor]) -> "ModelInput":
        """The same with `noise` for these layers, by name as in `layer_noise`."""
        return replace(self, layer_noise={**self.layer_noise, **noise})

    def targets(self, labels: Tensor, num_classes: int) -> Tensor:
        """What the samples are to be classified as.

        Args:
            labels: `[batch]` int64, or `[batch, classes]` probabilities.
            num_classes: Of the classifier.

        Returns:
            The labels where nothing is mixed, else `[batch, classes]` probabilities.
        """
        if self.label_mixing is None:
            return labels
        if not labels.is_floating_point():
            labels = (labels[:, None] == torch.arange(num_classes, device=labels.device)).to(self.label_mixing.dtype)
        return self.label_mixing @ labels


@dataclass(frozen=True)
class Observation:
    """All that the attacker gets from one client update.

    Attributes:
        gradients: Gradient of the client's loss by parameter name.
        model: The architecture.
        model_state: Parameters and buffers that the server sent to the client, by name.
        batch_size: Number of images behind the gradient.
        threat_model: What the attacker may assume.
        defense: The defense as the client declares it (`name:key=value`, joined by `+`), public parameters included.
        labels: `[batch]` int64, only where the threat model reveals them.
        disclosed: The defense's random choices (mask, permutation, ...), only for the `oracle` adversary; never an image.
    """

    gradients: Mapping[str, Tensor]
    model: ModelSpec
    model_state: Mapping[str, Tensor]
    batch_size: int
    threat_model: ThreatModel = field(default_factory=ThreatModel)
    defense: str = "none"
    labels: Tensor | None = None
    disclosed: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("gradients", "model_state", "disclosed"):
            frozen = {key: value.detach().clone() for key, value in getattr(self, name).items()}
            object.__setattr__(self, name, MappingProxyType(frozen))
        if self.batch_size < 1:
            raise UserError(f"an observation of {self.batch_size} images; accepted: 1 or more")
        broken = [key for key, value in self.gradients.items() if not torch.isfinite(value).all()]
        if broken:
            raise UserError(f"the gradient of {broken[0]} is not finite; check the client's images and weights")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        return (3, self.model.image_size, self.model.image_size)

    @property
    def device(self) -> torch.device:
        """Where the gradients live."""
        return next(iter(self.gradients.values())).device

    def to(self, device: torch.device) -> "Observation":
        """The same observation on another device; itself where it lies there already."""
        if torch.empty(0, device=device).device == self.device:
            return self

        def moved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device) for name, tensor in tensors.items()}

        return replace(
            self,
            gradients=moved(self.gradients),
            model_state=moved(self.model_state),
            labels=None if self.labels is None else self.labels.to(device),
            disclosed=moved(self.disclosed),
        )

    def save(self, path: Path) -> None:
        """Writes the observation to one safetensors file."""
        tensors: dict[str, Tensor] = {}
        for group in ("gradients", "model_state", "disclosed"):
            tensors |= {f"{group}/{key}": value.contiguous() for key, value in getattr(self, group).items()}
        if self.labels is not None:
            tensors["labels"] = self.labels.contiguous()
        header = {
            "model": self.model.model_dump(mode="json"),
            "batch_size": self.batch_size,
            "threat_model": self.threat_model.model_dump(mode="json"),
            "defense": self.defense,
        }
        save_file(tensors, str(path), metadata={"privbench-observation": json.dumps(header)})

    @classmethod
    def load(cls, path: Path) -> "Observation":
        """Reads what `save` wrote.

        Raises:
            UserError: The file cannot be read or is not an observation.
        """
        groups: dict[str, dict[str, Tensor]] = {"gradients": {}, "model_state": {}, "disclosed": {}}
        labels = None
        try:
            with safe_open(str(path), framework="pt") as file:
                header = json.loads((file.metadata() or {})["privbench-observation"])
                for key in file.keys():  # noqa: SIM118 (safe_open is not a mapping)
                    group, slash, name = key.partition("/")
                    if slash:
                        groups[group][name] = file.get_tensor(key)
                    else:
                        labels = file.get_tensor(key)
            return cls(
                **groups,
                model=ModelSpec.model_validate(header["model"]),
                batch_size=int(header["batch_size"]),
                threat_model=ThreatModel.model_validate(header["threat_model"]),
                defense=header["defense"],
                labels=labels,
            )
        except ValidationError as error:
            raise UserError(f"{path} is not an observation of this version: {one_line(error)}") from None
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise UserError(f"{path} is not a saved observation ({error}); write one with Observation.save") from None


@dataclass(frozen=True)
class Secret:
    """What the client keeps: opened by scoring, never handed to an attack.

    Attributes:
        images: `[batch, 3, height, width]` in [0, 1], the private images.
        labels: `[batch]` int64.
        fed: `[batch, 3, height, width]`, what the defense made of the images before the model saw them.
        choices: The defense's random choices by name.
    """

    images: Tensor
    labels: Tensor
    fed: Tensor
    choices: Mapping[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        return "Secret(sealed)"
