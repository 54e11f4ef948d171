"""AlexNet's trunk for LPIPS as it lies in the package: two small safetensors files, mostly in half precision."""

from collections.abc import Mapping
from importlib.resources import as_file, files

from safetensors.torch import load_file
from torch import Tensor

__all__ = ["PARTS", "embedded_trunk"]

PARTS: Mapping[str, tuple[str, ...]] = {
    "alexnet-1-of-2.safetensors": ("0.weight", "0.bias", "3.weight", "3.bias", "8.weight", "8.bias"),
    "alexnet-2-of-2.safetensors": ("6.weight", "6.bias", "10.weight", "10.bias"),
}
"""Which tensors of torchvision's `alexnet().features` lie in which file."""


def embedded_trunk(net: str) -> dict[str, Tensor] | None:
    """The trunk's weights that come with the package.

    Args:
        net: LPIPS's name of the trunk.

    Returns:
        float32 tensors by their names in torchvision's `.features`, such as `0.weight`; None for another trunk than `alex`.
    """
    if net != "alex":
        return None
    trunk: dict[str, Tensor] = {}
    for part in PARTS:
        with as_file(files("privbench.scoring.weights") / part) as path:
            trunk |= {name: value.float() for name, value in load_file(path).items()}
    return trunk
