"""What crosses the wire, `Observation`, and the sealed `Secret`.

An attack sees an `Observation` and nothing else; it can be saved to one safetensors file and attacked on another machine.
The `Secret` is made beside it by the client and is opened by scoring alone.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from privbench.core.component import one_line
from privbench.core.errors import UserError
from privbench.core.local_training import LocalTraining, UpdateDtype
from privbench.core.model_input import Normalisation
from privbench.core.model_spec import ModelSpec
from privbench.core.parameter_names import canonical_names, check_parameter, short_name
from privbench.core.spec import ComponentSpec
from privbench.core.threat_model import ThreatModel
from privbench.core.weight_delta import dtype_of, gradient_of_delta

__all__ = ["OBSERVATION_HEADER", "Observation", "Secret", "UpdateKind", "is_saved_observation"]

OBSERVATION_HEADER = "privbench-observation"
"""Key of the metadata of a saved observation."""

UpdateKind = Literal["gradient", "delta"]
"""`gradient` of the client's loss, or `delta`: weights after local training less weights before."""


@dataclass(frozen=True)
class Observation:
    """All that the attacker gets from one client update.

    Names of parameters are those of the victim's state (`network.` and the network's own name); what wraps a model for training
    (`module.`, `_module.`, `_orig_mod.`) is taken off. An update may be partial: the head alone, adapters alone.

    Attributes:
        update: What was sent, by parameter name, at least one: gradients of the client's loss, or weights after less before.
        model: The architecture.
        model_state: Parameters and buffers that the server sent to the client, by name.
        batch_size: Number of images behind the update.
        threat_model: What the attacker may assume.
        defense: The defenses that the client declares, in order, public parameters included; none where it is empty.
        labels: `[batch]` int64, only where the threat model reveals them.
        disclosed: The defense's random choices (mask, permutation, ...), only for the `oracle` adversary; never an image.
        kind: `gradient`, or `delta` of a client that trained.
        training: How it trained, where the threat model reveals it; None for a gradient.
        server: What a malicious server, the attacker, did to the model; None of an honest one.
        normalisation: Of the model's input; None where it is that of the architecture's own weights.
    """

    update: Mapping[str, Tensor]
    model: ModelSpec
    model_state: Mapping[str, Tensor]
    batch_size: int
    threat_model: ThreatModel = field(default_factory=ThreatModel)
    defense: tuple[ComponentSpec, ...] = ()
    labels: Tensor | None = None
    disclosed: Mapping[str, Tensor] = field(default_factory=dict)
    kind: UpdateKind = "gradient"
    training: LocalTraining | None = None
    normalisation: Normalisation | None = None
    server: ComponentSpec | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "defense", tuple(self.defense))
        for name in _GROUPS:
            frozen = {key: value.detach().clone() for key, value in getattr(self, name).items()}
            object.__setattr__(self, name, MappingProxyType(frozen if name == "disclosed" else canonical_names(frozen)))
        _check(self)

    @cached_property
    def gradients(self) -> Mapping[str, Tensor]:
        """The gradient behind the update, by parameter name, float32 or wider: of one step, or the mean over local steps.

        Exact for gradients, and for deltas of SGD with or without momentum whose training is known; see `gradient_of_delta`.
        """
        if self.kind == "delta":
            return MappingProxyType(gradient_of_delta(self.update, self.model_state, self.training))
        wide = {key: value.to(torch.promote_types(value.dtype, torch.float32)) for key, value in self.update.items()}
        return MappingProxyType(wide)

    @cached_property
    def dtype(self) -> UpdateDtype:
        """In which the update was sent, read off its entries."""
        return dtype_of(self.update)

    def with_gradients(self, gradients: Mapping[str, Tensor]) -> "Observation":
        """The same with a gradient in place of the update."""
        return replace(self, update=gradients, kind="gradient", training=None)

    def require_parameters(self, names: Iterable[str], attack: str) -> None:
        """Refuses an update that lacks what an attack reads.

        Raises:
            UserError: A parameter is not part of the update; the line names what is.
        """
        missing = [name for name in names if name not in self.update]
        if missing:
            there = ", ".join(map(short_name, list(self.update)[:4])) + (", ..." if len(self.update) > 4 else "")
            raise UserError(
                f"attack {attack} needs the update of {', '.join(map(short_name, missing))}, which this client did not send; "
                f"sent: {there} ({len(self.update)} parameter{'s' if len(self.update) > 1 else ''})"
            )

    @property
    def defense_text(self) -> str:
        """The declared defense as a user would write it."""
        return "+".join(map(str, self.defense)) or "none"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        return (3, self.model.image_size, self.model.image_size)

    @property
    def device(self) -> torch.device:
        """Where the update lives."""
        return next(iter(self.update.values())).device

    def to(self, device: torch.device) -> "Observation":
        """The same observation on another device; itself where it lies there already."""
        if torch.empty(0, device=device).device == self.device:
            return self

        def moved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device) for name, tensor in tensors.items()}

        return replace(
            self,
            update=moved(self.update),
            model_state=moved(self.model_state),
            labels=None if self.labels is None else self.labels.to(device),
            disclosed=moved(self.disclosed),
        )

    def save(self, path: Path) -> None:
        """Writes the observation to one safetensors file."""
        tensors: dict[str, Tensor] = {}
        for group in _GROUPS:
            tensors |= {f"{group}/{key}": value.contiguous() for key, value in getattr(self, group).items()}
        if self.labels is not None:
            tensors["labels"] = self.labels.contiguous()
        header = {
            "model": self.model.model_dump(mode="json"),
            "batch_size": self.batch_size,
            "threat_model": self.threat_model.model_dump(mode="json"),
            "defense": [part.model_dump(mode="json") for part in self.defense],
            "kind": self.kind,
            "training": None if self.training is None else self.training.model_dump(mode="json"),
            "server": None if self.server is None else self.server.model_dump(mode="json"),
            "normalisation": None if self.normalisation is None else [self.normalisation.mean, self.normalisation.std],
        }
        save_file(tensors, str(path), metadata={OBSERVATION_HEADER: json.dumps(header)})

    @classmethod
    def load(cls, path: Path) -> "Observation":
        """Reads what `save` wrote.

        Raises:
            UserError: The file cannot be read or is not an observation.
        """
        groups: dict[str, dict[str, Tensor]] = {name: {} for name in _GROUPS}
        labels = None
        if path.exists() and not path.is_file():
            raise UserError(f"cannot read the observation {path}: it is no regular file (a folder, a pipe or a device)")
        try:
            with safe_open(str(path), framework="pt") as file:
                header = json.loads((file.metadata() or {})[OBSERVATION_HEADER])
                for key in file.keys():  # noqa: SIM118 (safe_open is not a mapping)
                    group, slash, name = key.partition("/")
                    if slash:
                        groups[group][name] = file.get_tensor(key)
                    else:
                        labels = file.get_tensor(key)
            training, normalisation, server = header["training"], header["normalisation"], header["server"]
            return cls(
                **groups,
                model=ModelSpec.model_validate(header["model"]),
                batch_size=int(header["batch_size"]),
                threat_model=ThreatModel.model_validate(header["threat_model"]),
                defense=tuple(map(ComponentSpec.model_validate, header["defense"])),
                labels=labels,
                kind=header["kind"],
                training=None if training is None else LocalTraining.model_validate(training),
                server=None if server is None else ComponentSpec.model_validate(server),
                normalisation=None if normalisation is None else Normalisation(*map(tuple, normalisation)),
            )
        except ValidationError as error:
            raise UserError(f"{path} is not an observation of this version: {one_line(error)}") from None
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is not a saved observation ({error}); write one with Observation.save") from None


_GROUPS = ("update", "model_state", "disclosed")


def _check(observation: Observation) -> None:
    """Checks that update, state and labels of an observation fit together.

    Raises:
        UserError: They do not; the line says what was given and what is accepted.
    """
    update, state = observation.update, observation.model_state
    if observation.batch_size < 1:
        raise UserError(f"an observation of {observation.batch_size} images; accepted: 1 or more")
    if not update:
        raise UserError("an observation without a single parameter; accepted: the update of one parameter or more, by name")
    if observation.kind not in get_args(UpdateKind):
        raise UserError(f"an update of kind '{observation.kind}'; accepted: {', '.join(get_args(UpdateKind))}")
    if observation.kind == "gradient" and observation.training is not None:
        raise UserError("a gradient with local training; an update of a client that trained is of kind delta")
    for name, value in update.items():
        check_parameter(name, value, state)
    labels = observation.labels
    if labels is not None:
        if tuple(labels.shape) != (observation.batch_size,) or labels.is_floating_point():
            raise UserError(
                f"labels of shape {tuple(labels.shape)} and type {labels.dtype}; accepted: {observation.batch_size} whole "
                "numbers, one an image"
            )
        if labels.device.type != "meta" and (int(labels.min()) < 0 or int(labels.max()) >= observation.model.num_classes):
            raise UserError(
                f"labels from {int(labels.min())} to {int(labels.max())}; the model has classes 0 to "
                f"{observation.model.num_classes - 1}"
            )


def is_saved_observation(path: Path) -> bool:
    """Whether a file was written by `Observation.save`."""
    if not path.is_file():
        return False
    try:
        with safe_open(str(path), framework="pt") as file:
            return OBSERVATION_HEADER in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


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
