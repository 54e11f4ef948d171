"""Architectures by name: the embedded ones, and every model that timm builds.

A builder makes a module with random weights and knows the normalisation that its weights expect; where the weights come from
is the business of `loading`. Timm is imported where a model is built: it takes a second, and a case is resolved without it.
"""

import difflib
import re
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from privbench.core import MODELS, ModelSpec, UserError
from privbench.core.component import one_line
from privbench.models.prior_cnn import PriorCnn
from privbench.models.svd_cnn import SvdCnn
from privbench.models.victim import Victim

__all__ = ["CIFAR_MEAN", "CIFAR_STD", "DEFAULT_MODEL", "Architecture", "build_model", "default_spec"]

DEFAULT_MODEL = "vit_mini_patch4_32"
_CLASSES = 1000
"""Of the classifier drawn for an architecture that comes without one, such as DINOv2."""
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True)
class Architecture:
    """One registered architecture.

    Attributes:
        name: Registered name.
        summary: One line for listings.
        image_size: Native input size in pixels.
        num_classes: Native number of classes.
        build: `(num_classes, image_size) -> network` with random weights, over normalised images.
        mean: Normalisation mean per channel.
        std: Normalisation standard deviation per channel.
    """

    name: str
    summary: str
    image_size: int
    num_classes: int
    build: Callable[[int, int], nn.Module]
    mean: tuple[float, ...] = CIFAR_MEAN
    std: tuple[float, ...] = CIFAR_STD


def _vit_mini(num_classes: int, image_size: int) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(img_size=image_size, patch_size=4, embed_dim=192, depth=3, num_heads=3, num_classes=num_classes)


vit_mini_patch4_32 = Architecture(
    name=DEFAULT_MODEL,
    summary="ViT for 32x32: patch 4, 64 patches, width 192, depth 3, 3 heads, 1.36 M parameters; weights embedded",
    image_size=32,
    num_classes=10,
    build=_vit_mini,
)

cnn_mini_32 = Architecture(
    name="cnn_mini_32",
    summary="residual CNN with batch normalisation for 32x32, 0.47 M parameters: the prior of GradViT; weights embedded",
    image_size=32,
    num_classes=10,
    build=lambda num_classes, _: PriorCnn(num_classes),
)


cnn_decorrelated_32 = Architecture(
    name="cnn_decorrelated_32",
    summary="residual CNN for 32x32, decorrelated batch normalisation (ZCA) behind its first convolution; no weights embedded",
    image_size=32,
    num_classes=10,
    build=lambda num_classes, _: SvdCnn(num_classes, "decorrelated"),
)

cnn_covariance_32 = Architecture(
    name="cnn_covariance_32",
    summary="residual CNN for 32x32 with global covariance pooling (matrix square root); no weights embedded",
    image_size=32,
    num_classes=10,
    build=lambda num_classes, _: SvdCnn(num_classes, "covariance"),
)


_OWN = re.compile(r"-[0-9a-f]{12}$")


def _timm_architecture(name: str) -> Architecture:
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None:
        near = difflib.get_close_matches(name, [*MODELS.names(), *timm.list_models()], n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        # Modules of the user's own, whose names end with a checksum, may be many.
        listed = [known for known in MODELS.names() if not _OWN.search(known)]
        raise UserError(f"unknown model '{name}'; {hint}accepted: {', '.join(listed)} or a timm model name")
    native_size = int(config.input_size[-1])
    return Architecture(
        name=name,
        summary=f"timm {name}",
        image_size=native_size,
        num_classes=int(config.num_classes) or _CLASSES,
        build=lambda num_classes, image_size: _timm_network(name, num_classes, image_size, native_size),
        mean=tuple(config.mean),
        std=tuple(config.std),
    )


def _timm_network(name: str, num_classes: int, image_size: int, native_size: int) -> nn.Module:
    if image_size != native_size:
        try:
            return _created(name, num_classes=num_classes, img_size=image_size)
        except TypeError:  # convolutional models take any size and know no such argument
            pass
    return _created(name, num_classes=num_classes)


def _created(name: str, **arguments: Any) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(name, **arguments)
    return network


def architecture(name: str) -> Architecture:
    """The architecture of a registered or timm name.

    Raises:
        UserError: Neither the registry nor timm knows the name.
    """
    if name in MODELS.names():
        found: Architecture = MODELS.get(name)
        return found
    return _timm_architecture(name)


def has_classifier(name: str) -> bool:
    """Whether an architecture's trained weights come with a classifier; otherwise one of 1000 classes is drawn (DINOv2)."""
    if name in MODELS.names():
        return True
    import timm

    config = timm.get_pretrained_cfg(name)
    return config is None or bool(config.num_classes)


def default_spec(name: str, *, num_classes: int | None = None, image_size: int | None = None) -> ModelSpec:
    """Fills in an architecture's native number of classes and input size.

    Raises:
        UserError: The name is unknown, or no model has so many classes or pixels.
    """
    native = architecture(name)
    try:
        return ModelSpec(name=name, num_classes=num_classes or native.num_classes, image_size=image_size or native.image_size)
    except ValidationError as error:
        raise UserError(f"model {name}: {one_line(error)}") from None


@lru_cache(maxsize=64)
def require_classifies(spec: ModelSpec) -> None:
    """Builds an architecture without memory or values and lets it classify an image of its size.

    Raises:
        UserError: The name is unknown, the architecture cannot be built, does not take such images, or returns no logits.
    """
    if MODELS.is_built_in(spec.name) and spec == default_spec(spec.name):
        return  # tests build these
    with torch.device("meta"), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        victim = build_model(spec).to("meta")  # a user's module brings tensors of its own
        try:
            logits: Any = victim.eval()(torch.zeros(1, 3, spec.image_size, spec.image_size))
        except Exception as error:  # a network raises whatever it likes about an image that does not fit
            if isinstance(error, UserError):
                raise
            if "meta" in str(error).lower():
                return  # it looks at values, of which there are none here; the client's own pass will tell
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            raise UserError(
                f"model {spec.name} does not take images of {spec.image_size} pixels ({reason}){_native(spec)}"
            ) from None
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != (1, spec.num_classes):
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UserError(
            f"model {spec.name} is no classifier of {spec.num_classes} classes: it returns {shape} for an image; choose another"
        )


def _forget_biases(module: nn.Module, _: object) -> None:
    """Clears what a layer of LeViT, EfficientFormer or TinyViT keeps of its parameters in eval mode, before each pass.

    It is of an earlier pass: of other parameters, and of a derivative that is over.
    """
    cast(Any, module).attention_bias_cache.clear()


def _forget_indices(module: nn.Module, _: object) -> None:
    """Likewise the relative positions of ConViT, a constant, but made inside the derivative of an earlier pass."""
    cast(Any, module).rel_indices = None


_entered = threading.local()
"""Contexts of the passes that are under way in a thread, innermost last."""


def _enter_plain_attention(_: nn.Module, __: object) -> None:
    """For a pass of a network that is not timm's: torch's attention in plain operations, which have second derivatives."""
    context = sdpa_kernel(SDPBackend.MATH)
    context.__enter__()
    _entered.contexts = [*getattr(_entered, "contexts", []), context]


def _leave_plain_attention(_: nn.Module, __: object, ___: object) -> None:
    _entered.contexts.pop().__exit__(None, None, None)


def _native(spec: ModelSpec) -> str:
    size = architecture(spec.name).image_size
    return "" if size == spec.image_size else f"; its own size is {size}"


def build_model(spec: ModelSpec) -> Victim:
    """A model with random weights, ready for second derivatives: fused attention has none, so it is off.

    The weights are drawn from torch's global generator, as timm's initialisation does; `loading.load_victim` seeds it.

    Raises:
        UserError: The name is unknown, or the architecture cannot be built at this size.
    """
    native = architecture(spec.name)
    try:
        network = native.build(spec.num_classes, spec.image_size)
    except Exception as error:  # a builder raises whatever it likes about arguments
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(
            f"model {spec.name} cannot be built for {spec.image_size} pixels and {spec.num_classes} classes: {reason}"
        ) from None
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            cast(Any, module).fused_attn = False
        if hasattr(module, "attention_bias_cache"):
            module.register_forward_pre_hook(_forget_biases)
        if hasattr(module, "rel_indices"):
            module.register_forward_pre_hook(_forget_indices)
    if not type(network).__module__.startswith("timm."):
        network.register_forward_pre_hook(_enter_plain_attention)
        network.register_forward_hook(_leave_plain_attention, always_call=True)
    victim = Victim(network, image_size=spec.image_size, mean=native.mean, std=native.std)
    if victim.patch_size and spec.image_size % victim.patch_size:
        raise UserError(
            f"model {spec.name} cuts images into patches of {victim.patch_size} pixels, and {spec.image_size} is no multiple "
            f"of it; accepted: {spec.image_size // victim.patch_size * victim.patch_size or victim.patch_size}, for instance"
        )
    return victim
