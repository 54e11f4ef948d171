"""How near a step is to the limit of the machine: operations counted from the model over the measured rate of matrix products.

Only matrix products (and convolutions, which are such) are counted, two operations per multiply-add, once for a plain
double-backward step. Every competitor is divided by this same number, so a share says how fast the step is, not how many
operations its own way of computing it takes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.baseline import PlainObjective, second_order_copy
from benchmarks.timing import clock

__all__ = ["Peak", "peak_rate", "share_of_peak", "step_flops"]

CPU_SIZES = (256, 512, 1024, 1536)
CUDA_SIZES = (2048, 4096, 8192)
ROUND_SECONDS = 0.02
"""So long, at the least, lasts what is timed in one piece."""


@dataclass(frozen=True)
class Peak:
    """The fastest matrix product found.

    Attributes:
        rate: Floating point operations per second.
        kernel: What ran it: `mm` (torch's own choice) or `mkldnn` (oneDNN's linear layer).
        size: Side of its square matrices.
    """

    rate: float
    kernel: str
    size: int


def step_flops(model: nn.Module, gradients: Mapping[str, Tensor], labels: Tensor, start: Tensor) -> int:
    """Floating point operations of the matrix products of one plain double-backward step.

    Args:
        model: Images in [0, 1] to logits; left as found.
        gradients: Observed gradient by parameter name, one for each parameter of the model.
        labels: `[batch]` int64.
        start: `[batch, 3, height, width]` in [0, 1].

    Raises:
        UserError: The gradients are not those of the model's parameters.
    """
    objective = PlainObjective(second_order_copy(model), gradients, labels, variation=0.0)
    images = start.detach().clone().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        # Not torch.autograd.grad: the counter's hooks refuse a leaf as its input.
        torch.autograd.backward(objective(images), inputs=[images])
    return int(counter.get_total_flops())


def peak_rate(device: torch.device, *, rounds: int = 3) -> Peak:
    """The largest rate over a few sizes and kernels of float32 matrix products, at the threads and precision torch is set to.

    On a CPU the linear layer of oneDNN is tried too: the BLAS that torch ships is MKL, and on processors that are not Intel's
    oneDNN can be about twice as fast.

    Args:
        device: Where to measure; it takes a few seconds.
        rounds: Timings of each size and kernel, of which the shortest counts.
    """
    sizes = CUDA_SIZES if device.type == "cuda" else CPU_SIZES
    found = [
        Peak(2 * size**3 / _shortest(product, device, rounds), kernel, size)
        for size in sizes
        for kernel, product in _products(size, device).items()
    ]
    return max(found, key=lambda peak: peak.rate)


def share_of_peak(flops: float, seconds: float, peak: Peak) -> float:
    """Operations per second as a share of the peak; 0.4 means 40 %."""
    return flops / seconds / peak.rate


def _products(size: int, device: torch.device) -> dict[str, Callable[[], object]]:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(size, size, generator=generator).to(device)
    right = torch.randn(size, size, generator=generator).to(device)
    output = torch.empty_like(left)
    products: dict[str, Callable[[], object]] = {"mm": lambda: torch.mm(left, right, out=output)}
    if device.type == "cpu" and cast(Any, torch.backends.mkldnn).is_available():
        products["mkldnn"] = lambda: torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    return products


def _shortest(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Seconds of one call: the best round, each of as many calls as make it long enough to be timed."""

    def round_of(calls: int) -> float:
        started = clock(device)
        for _ in range(calls):
            work()
        return (clock(device) - started) / calls

    round_of(1)
    calls = max(1, round(ROUND_SECONDS / round_of(1)))
    return min(round_of(calls) for _ in range(rounds))
