"""A user's own module as a victim: registered as an architecture for the life of the process, its weights kept in a file."""

import hashlib
import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from privbench.core import MODELS, UserError
from privbench.models.zoo import Architecture

__all__ = ["register_module"]


def register_module(
    network: nn.Module, *, image_size: int | None = None, num_classes: int | None = None, folder: Path | None = None
) -> tuple[str, Path]:
    """Makes a classifier available by name.

    What a model of timm says of itself (input size, classes, normalisation) is taken from there. Of any other module the input
    is taken to be in [0, 1]: a module that wants normalised images normalises them itself. In another process the module has to
    be registered again before its cases can be verified.

    Args:
        network: Maps `[batch, 3, height, width]` to logits `[batch, classes]`; left as it is.
        image_size: Height and width in pixels; None: as the module says.
        num_classes: None: as the module says, or as many logits as it returns.
        folder: Where its weights are kept, by content; None: `~/.cache/privbench/victims`.

    Returns:
        Its name, made of class and weights, and the file of its weights.

    Raises:
        UserError: The input size is not known, the module does not take such images, does not return logits, or cannot be
            differentiated by torch.func.
    """
    config: Any = getattr(network, "pretrained_cfg", None) or getattr(network, "default_cfg", None) or {}
    size = image_size or _size(config, network)
    classes = num_classes or _classes(network, size)
    template = deepcopy(network).cpu()
    _require_derivatives(template, size)
    content = save({name: _plain(value) for name, value in template.state_dict().items()})
    digest = hashlib.sha256(content).hexdigest()[:12]
    name = f"{type(network).__name__}-{digest}"
    path = (folder or Path("~/.cache/privbench/victims").expanduser()) / f"{name}.safetensors"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            temporary = path.with_suffix(f".{os.getpid()}.part")
            temporary.write_bytes(content)
            temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot keep the weights of the module in {path.parent}: {error.strerror or error}") from None
    if name not in MODELS.names():
        architecture = Architecture(
            name=name,
            summary=f"a module of the user's, {type(network).__module__}.{type(network).__qualname__}",
            image_size=size,
            num_classes=classes,
            build=lambda wanted, _: _built(template, classes, wanted),
            mean=tuple(config.get("mean") or (0.0, 0.0, 0.0)),
            std=tuple(config.get("std") or (1.0, 1.0, 1.0)),
        )
        MODELS.register(name, architecture)
    return name, path


def _plain(value: Tensor) -> Tensor:
    return value.detach().contiguous().clone()


def _size(config: Any, network: nn.Module) -> int:
    embedding = getattr(getattr(network, "patch_embed", None), "img_size", None)
    found = embedding[0] if isinstance(embedding, tuple) else embedding or (config.get("input_size") or (0, 0))[-1]
    if not found:
        raise UserError(
            f"{type(network).__name__} does not say the size of its input; pass image_size, its height and width in pixels"
        )
    return int(found)


def _classes(network: nn.Module, size: int) -> int:
    was_training = network.training
    try:
        with torch.no_grad():
            logits = network.eval()(_grey(network, size))
    except Exception as error:  # a user's module raises whatever it likes
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{type(network).__name__} does not take images of {size}x{size} pixels: {reason}") from None
    finally:
        network.train(was_training)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise UserError(f"{type(network).__name__} returns no logits; accepted: a classifier that returns [batch, classes]")
    return int(logits.shape[1])


def _grey(network: nn.Module, size: int) -> Tensor:
    parameter = next(network.parameters(), torch.empty(0))
    return torch.zeros(1, 3, size, size, dtype=parameter.dtype, device=parameter.device)


def _require_derivatives(network: nn.Module, size: int) -> None:
    """Attacks take the gradient as a function of the parameters; operations of a user's own may not allow that."""
    network = deepcopy(network).eval()
    image, parameters = (
        _grey(network, size),
        {name: value for name, value in network.named_parameters() if value.is_floating_point()},
    )

    def total(values: dict[str, Tensor]) -> Tensor:
        logits: Tensor = torch.func.functional_call(network, values, (image,))
        return logits.float().sum()

    try:
        torch.func.grad(total)(dict[str, Tensor](parameters))
    except Exception as error:  # a user's module raises whatever it likes
        reason = " ".join(str(error).split())[:140]
        raise UserError(
            f"{type(network).__name__} cannot be differentiated by torch.func ({reason}); accepted: modules of torch's own "
            "operations, or whose autograd.Function has setup_context"
        ) from None


def _built(template: nn.Module, classes: int, wanted: int) -> nn.Module:
    if wanted != classes:
        raise ValueError(f"the module has {classes} classes and cannot be given {wanted}")
    # Which parameters are trained is the client's affair (`observe(trains=...)`); an attacker may ask for any gradient.
    return deepcopy(template).requires_grad_(True)
