"""Networks whose batch-normalisation statistics serve as image prior (GradViT's R_image): embedded, timm's, or from a file.

    cnn_mini_32                                          embedded, for 32x32
    resnet50                                             timm's pretrained weights
    resnet50:moco_v2.pth                                 weights from a file
    mobilenetv2_035?pad_type=same&bn_eps=1e-3:file.pth   with arguments of timm's builder

`mean`, `std` and `size` after the question mark are the input's normalisation and the native size in pixels.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from privbench.core import UserError
from privbench.models.cards import embedded_path, embedded_state, file_sha256
from privbench.models.checkpoints import fitted_names, load_state
from privbench.models.loading import pretrained_state
from privbench.models.victim import Victim
from privbench.models.zoo import architecture, build_model, default_spec

__all__ = ["PRIOR_OFF", "load_prior", "prior_for", "prior_sha256"]

PRIOR_OFF = "prior-off-above-its-size"
"""Flag: the images are larger than those whose statistics the prior has."""

_FORM = "accepted: NAME, NAME:FILE, or NAME?argument=value&...:FILE"


def prior_for(text: str, image_size: int) -> Victim | None:
    """The prior for images of a size; None where they are larger than those whose statistics it has.

    Args:
        text: As for `load_prior`; `?size=` states another size than the native one.
        image_size: Of the images, in pixels.

    Raises:
        UserError: As for `load_prior`.
    """
    prior = load_prior(text)
    return prior if image_size <= prior.image_size else None


def prior_sha256(text: str) -> str | None:
    """Hexadecimal SHA-256 of the weights file of a prior; None where timm keeps them.

    Args:
        text: As for `load_prior`.

    Raises:
        UserError: The text or the file cannot be read.
    """
    spec = _PriorSpec.parse(text)
    path = spec.file or embedded_path(spec.name, "none")
    if path is None:
        return None
    try:
        return file_sha256(path)
    except OSError as error:
        raise UserError(f"cannot read the weights of the prior '{text[:200]}': {error.strerror or error}; {_FORM}") from None


@dataclass(frozen=True)
class _PriorSpec:
    name: str
    arguments: dict[str, Any]
    file: Path | None

    @classmethod
    def parse(cls, text: str) -> "_PriorSpec":
        head, _, file = text.partition(":")
        name, _, query = head.partition("?")
        arguments: dict[str, Any] = {}
        for part in filter(None, query.split("&")):
            key, equals, value = part.partition("=")
            if not (equals and key.isidentifier() and value):
                raise UserError(f"cannot read '{part[:80]}' in the prior '{text[:200]}'; {_FORM}")
            arguments[key] = _value(value)
        if not name:
            raise UserError(f"the prior '{text[:200]}' names no network; {_FORM}")
        return cls(name, arguments, Path(file).expanduser() if file else None)


def _value(text: str) -> Any:
    # YAML reads 1e-3 as text, as it asks for a dot.
    try:
        return float(text) if not text.lstrip("+-").isdigit() else int(text)
    except ValueError:
        return yaml.safe_load(text)


def load_prior(text: str = "cnn_mini_32") -> Victim:
    """A CNN with its batch-normalisation statistics: frozen, eval mode, CPU.

    Args:
        text: `NAME`, `NAME:FILE` or `NAME?argument=value&...:FILE`, as in the module's examples.

    Returns:
        A network over images in [0, 1]; its `image_size` is its native input size.

    Raises:
        UserError: The text cannot be read, the network cannot be built, has no batch normalisation, or its weights cannot be
            had or do not fit.
    """
    spec = _PriorSpec.parse(text)
    # Building draws random weights, which the loaded ones replace; the caller's random stream must not notice.
    with torch.random.fork_rng(devices=[]):
        prior = _built(spec)
    if not any(isinstance(module, nn.BatchNorm2d) for module in prior.modules()):
        raise UserError(
            f"the prior {spec.name} has no batch-normalisation statistics; choose a convolutional network, as resnet50"
        )
    own = prior.network.state_dict()
    state = fitted_names(_state(spec), own)
    # A backbone's file may hold a classifier, and a classifier's file is enough for its backbone.
    lacking = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    wrong = [name for name in own if name in state and state[name].shape != own[name].shape]
    if lacking or wrong:
        problem = f"lack {lacking[0]}" if lacking else f"have {wrong[0]} of shape {tuple(state[wrong[0]].shape)}"
        raise UserError(f"the weights of the prior {text[:200]} {problem}; {spec.name} needs {len(own)} tensors")
    prior.network.load_state_dict({name: state.get(name, value).to(value.dtype) for name, value in own.items()})
    return prior.eval().requires_grad_(False)


def _built(spec: _PriorSpec) -> Victim:
    if not spec.arguments:
        return build_model(default_spec(spec.name))
    arguments, native = dict(spec.arguments), architecture(spec.name)
    mean, std = (_channels(arguments.pop(key, value)) for key, value in (("mean", native.mean), ("std", native.std)))
    size = int(arguments.pop("size", native.image_size))
    if not arguments:
        shell = build_model(default_spec(spec.name))
        return Victim(shell.network, image_size=size, mean=mean, std=std)
    import timm

    try:
        network = timm.create_model(spec.name, **arguments)
    except Exception as error:  # a builder raises whatever it likes about arguments
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the prior {spec.name} cannot be built with {spec.arguments}: {reason}") from None
    return Victim(network, image_size=size, mean=mean, std=std)


def _channels(value: Any) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (float(value),) * 3


def _state(spec: _PriorSpec) -> dict[str, Tensor]:
    if spec.file is not None:
        return load_state(spec.file)
    embedded = embedded_state(spec.name)
    return pretrained_state(default_spec(spec.name)) if embedded is None else embedded
