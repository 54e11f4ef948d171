"""The `--device` option."""

from typing import TYPE_CHECKING

from privbench.core.errors import UserError

if TYPE_CHECKING:
    import torch

__all__ = ["resolve_device"]


def resolve_device(text: str) -> "torch.device":
    """`auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        UserError: The device is unknown or not there.
    """
    import torch

    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
    except RuntimeError:
        device = None
    if device is None or device.type not in {"cpu", "cuda"}:
        raise UserError(f"unknown device '{text}'; accepted: auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"device '{text}' is not there ({torch.cuda.device_count()} CUDA devices found); use --device cpu")
    return device
