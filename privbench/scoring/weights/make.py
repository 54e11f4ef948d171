"""Makes the files of this folder: `python -m privbench.scoring.weights.make WEIGHTS.pth FOLDER`."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from privbench.scoring.embedded_trunk import PARTS


def write(weights: Path, folder: Path) -> None:
    """Writes the files that `embedded_trunk` reads.

    Args:
        weights: State dict of torchvision's `alexnet` or of its `.features`, by torch.save.
        folder: Where the files are written.
    """
    content = torch.load(weights, map_location="cpu", weights_only=True)
    for part, names in PARTS.items():
        tensors = {name: content.get(f"features.{name}", content.get(name)) for name in names}
        save_file({name: _stored(name, value) for name, value in tensors.items()}, folder / part)


def _stored(name: str, value: Tensor) -> Tensor:
    # Where two images hardly differ, LPIPS hangs on the first layer; its weights and the biases are few.
    exact = name.endswith("bias") or name == "0.weight"
    return value.to(torch.float32 if exact else torch.float16).contiguous()


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
