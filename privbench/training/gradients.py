"""The gradient of one training step, plain or compiled; the compiled one computes the same function and differs in rounding."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from privbench.core import ModelInput
from privbench.models import PenalisedLayer, Victim, client_loss

__all__ = ["LossGradient", "mixed_precision", "precision"]


def mixed_precision(device: str, *, cache: bool = True) -> torch.autocast:
    """bf16 where the device multiplies in it: a step takes half of the time of float32 there; emulated, ten times as long."""
    return torch.autocast(device, torch.bfloat16, enabled=precision(device) == "bf16", cache_enabled=cache)


def precision(device: str) -> str:
    """`bf16` or `fp32`: what a step's products are computed in on a kind of device."""
    return "bf16" if device == "cuda" or _cpu_has_bf16() else "fp32"


def _cpu_has_bf16() -> bool:
    """Whether this processor has instructions for bf16 and this torch says so (2.6 does not); if in doubt, it has not."""
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class LossGradient:
    """The client's loss and its gradient by parameter name.

    Args:
        victim: The model in train mode.
        compiled: Whether passes without layer noise go through `torch.compile`; where that fails, they go on without.
        backend: Of `torch.compile`.
    """

    def __init__(self, victim: Victim, *, compiled: bool, backend: str = "inductor") -> None:
        self.victim = victim
        self.compiled: Callable[..., Tensor] | None = None
        # Layers that add to the loss are watched by hooks, which a compiled pass does not call.
        if compiled and not any(isinstance(module, PenalisedLayer) for module in victim.modules()):
            compile_: Any = torch.compile
            self.compiled = compile_(self._plain_loss, dynamic=False, backend=backend)

    def __call__(self, fed: ModelInput, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients of the parameters that take part, and the loss, a scalar.

        Args:
            fed: What the model is fed.
            labels: `[batch]` int64, or `[batch, classes]` probabilities.
        """
        loss = self._loss(fed, labels)
        parameters = dict(self.victim.named_parameters())
        values = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        return {name: one for name, one in zip(parameters, values, strict=True) if one is not None}, loss.detach()

    def _loss(self, fed: ModelInput, labels: Tensor) -> Tensor:
        if self.compiled is not None and not fed.layer_noise:
            unknown = fed.unknown_positions
            if unknown is None and self.victim.has_unknown_position:
                # No patch is unknown: one graph serves masked and other batches.
                unknown = torch.zeros(self.victim.patch_count, dtype=torch.bool, device=fed.images.device)
            try:
                return self.compiled(fed.images, unknown, fed.targets(labels, self._classes()))
            except torch._dynamo.exc.TorchDynamoException:
                self.compiled = None
        with mixed_precision(fed.images.device.type):
            return client_loss(self.victim, fed, labels)

    def _plain_loss(self, images: Tensor, unknown: Tensor | None, targets: Tensor) -> Tensor:
        with mixed_precision(images.device.type):
            logits = self.victim(images, unknown)
        return nn.functional.cross_entropy(logits.float(), targets)

    def _classes(self) -> int:
        return int(self.victim.get_parameter(self.victim.classifier_names()[1]).shape[0])
