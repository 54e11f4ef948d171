"""Where to compute: devices by name, and the number of CPU threads."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from privbench.core.errors import UserError

if TYPE_CHECKING:
    import torch

__all__ = ["check_threads", "cpu_threads", "resolve_device", "resolve_devices"]

_SMALL_INPUT = 64
_MOST_THREADS = 256


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


def check_threads(threads: int | None) -> None:
    """Refuses numbers of threads that no machine has; from tens of thousands on torch crashes.

    Raises:
        UserError: There are too many, or fewer than one.
    """
    most = max(_MOST_THREADS, 4 * (os.cpu_count() or 1))
    if threads is not None and not 1 <= threads <= most:
        raise UserError(f"{threads} threads; accepted: 1 to {most} (this machine has {os.cpu_count()} CPU cores)")


@contextmanager
def cpu_threads(threads: int | None, image_size: int) -> Iterator[None]:
    """Sets torch's number of CPU threads for a block, and puts it back.

    The number decides in which order sums are taken, and so the last bits; it is recorded.

    Without a wish, small inputs get one thread: their operations take microseconds, so a second thread gains little on a
    quiet machine, and beside any other busy process the threads wait for each other (measured: 30 times slower).

    Args:
        threads: The user's choice, or None.
        image_size: Height and width of the largest input in pixels.

    Raises:
        UserError: As `check_threads`.
    """
    import torch

    check_threads(threads)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or (1 if image_size <= _SMALL_INPUT else before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
