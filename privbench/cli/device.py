"""The `--device` and `--threads` options."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from privbench.core.errors import UserError

if TYPE_CHECKING:
    import torch

__all__ = ["cpu_threads", "resolve_device", "resolve_devices"]

_SMALL_INPUT = 64


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


def resolve_devices(text: str) -> "list[torch.device]":
    """As `resolve_device`; `auto` and `cuda` without an index are all CUDA devices that are visible.

    Raises:
        UserError: The device is unknown or not there.
    """
    import torch

    device = resolve_device(text)
    if text not in {"auto", "cuda"} or device.type != "cuda" or torch.cuda.device_count() == 1:
        return [device]
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]


@contextmanager
def cpu_threads(threads: int | None, image_size: int) -> Iterator[None]:
    """Sets torch's number of CPU threads for the time of a command, and puts it back.

    Without a wish, small inputs get one thread: their operations take microseconds, so a second thread gains little on a
    quiet machine, and beside any other busy process the threads wait for each other (measured: 30 times slower).

    Args:
        threads: The user's choice, or None.
        image_size: Height and width of the largest input in pixels.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or (1 if image_size <= _SMALL_INPUT else before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
