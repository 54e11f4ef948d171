"""Where a number comes from: versions, commit, machine, time and memory."""

import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from privbench import __version__
from privbench.core import ComputeOptions, Provenance

__all__ = ["repository_commit", "take_provenance"]


def take_provenance(compute: ComputeOptions, seconds: float, *, group: int) -> Provenance:
    """Describes the present process.

    Args:
        compute: Where and how the case was computed.
        seconds: How long it took.
        group: The largest number of client batches that were attacked together.
    """
    return Provenance(
        version=__version__,
        commit=repository_commit(Path(__file__).parents[2]),
        torch=str(torch.__version__),
        python=platform.python_version(),
        device=_device_names(compute.devices),
        threads=torch.get_num_threads(),
        compile=compute.compile,
        # TF32 exists on CUDA alone.
        precision=compute.precision if compute.device.type == "cuda" else "fp32",
        group=group,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=seconds,
        peak_memory_mib=max(map(_peak_memory_mib, compute.devices)),
    )


def repository_commit(root: Path) -> str | None:
    """The commit of a repository, marked `-dirty` where tracked files were changed; None where `root` is none.

    Args:
        root: Top folder of the working tree. A folder inside somebody else's repository does not count.
    """
    if not (root / ".git").exists():
        return None
    head = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return None if head is None or changed is None else head + ("-dirty" if changed else "")


def _git(root: Path, *arguments: str) -> str | None:
    command = ("git", "-C", os.fspath(root), *arguments)
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603 (fixed words)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _device_names(devices: Sequence[torch.device]) -> str:
    names = Counter(
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})" for device in devices
    )
    return " + ".join(name if count == 1 else f"{count} x {name}" for name, count in names.items())


def _peak_memory_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts KiB, macOS bytes.
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
