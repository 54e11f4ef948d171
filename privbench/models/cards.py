"""Embedded weights and their cards: safetensors in half precision, and how each of them came to be."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from privbench.core import Defense, UserError, VictimSpec

__all__ = [
    "VictimCard",
    "card_beside",
    "embedded_name",
    "embedded_path",
    "embedded_state",
    "file_sha256",
    "read_card",
    "victim_card",
]

_FOLDER = files("privbench.models.weights")


@dataclass(frozen=True)
class VictimCard:
    """How a set of weights came to be; written by `privbench train` beside the weights.

    Attributes:
        model: Architecture name.
        defense: The defense it was trained under, all parameters shown.
        dataset: Training data.
        accuracy: Top-1 on the test images, as the model is deployed (no mask, ordinary positions), in [0, 1].
        defended_accuracy: Top-1 when the test images go through the defense's batch hook, in [0, 1].
        test_images: Number of test images behind both.
        epochs: Passes over the training data.
        recipe: The remaining hyper-parameters, the number of training images, and the precision of a step.
        command: The command that repeats it.
        parameters: Number of parameters.
        sha256: Content of the weights file.
        torch: Version of torch.
        device: Where it was trained.
        seconds: Training time.
        guarantee: What the defense promises of this very run, epsilon included where there is one; None in older cards.
        training_accuracy: Top-1 on the first 10,000 training images, as deployed, in [0, 1]; None in older cards.
    """

    model: str
    defense: str
    dataset: str
    accuracy: float
    defended_accuracy: float
    test_images: int
    epochs: int
    recipe: Mapping[str, float | int | str]
    command: str
    parameters: int
    sha256: str
    torch: str
    device: str
    seconds: float
    guarantee: str | None = None
    training_accuracy: float | None = None


def embedded_name(model: str, trained_as: str) -> str:
    """File stem of embedded weights: architecture and the defense of training."""
    return f"{model}.{trained_as}"


def embedded_state(model: str, trained_as: str = "none") -> dict[str, Tensor] | None:
    """Embedded weights by the names that they have; None where there are none."""
    path = embedded_path(model, trained_as)
    return None if path is None else load_file(path)


def embedded_path(model: str, trained_as: str) -> Path | None:
    """The file of embedded weights; None where there is none."""
    resource = _FOLDER / f"{embedded_name(model, trained_as)}.safetensors"
    if not resource.is_file():
        return None
    with as_file(resource) as path:
        return Path(path)


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_card(model: str, trained_as: str) -> VictimCard | None:
    """The card of embedded weights, None where there are none."""
    resource = _FOLDER / f"{embedded_name(model, trained_as)}.json"
    return VictimCard(**json.loads(resource.read_text(encoding="utf-8"))) if resource.is_file() else None


def card_beside(weights: Path) -> VictimCard | None:
    """The card that `privbench train` wrote beside a weights file; None where there is none or it describes other weights.

    Raises:
        UserError: There is a file of its name that is no card.
    """
    path = weights.with_suffix(".json")
    if not path.is_file():
        return None
    try:
        card = VictimCard(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise UserError(f"{path} is not the card of {weights.name}; move it away or train again") from None
    return card if card.sha256 == file_sha256(weights) else None


def victim_card(spec: VictimSpec, defense: Defense) -> VictimCard | None:
    """The card of embedded weights; None for other weights."""
    return read_card(spec.model.name, defense.trained_as()) if spec.weights == "embedded" else None
