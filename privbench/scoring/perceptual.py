"""LPIPS, the learned perceptual distance of Zhang et al. (CVPR 2018, arXiv 1801.03924), by the authors' package `lpips`.

The package downloads, prints and warns when its network is built; here the network is built empty and filled from
`trunk.load_trunk` and from the calibrated layers that lie in the package.
"""

import warnings
from collections.abc import Mapping
from importlib.resources import as_file, files
from typing import Any

import torch
from torch import Tensor, nn

from privbench.core.errors import UserError, unknown_name
from privbench.scoring.factory import Compute, MetricFactory, MetricUnavailable, SuiteOptions
from privbench.scoring.trunk import ARCHITECTURES, load_trunk

__all__ = ["LPIPS", "LPIPS_MINIMUM"]

LPIPS_MINIMUM: Mapping[str, int] = {"alex": 31, "vgg": 16, "squeeze": 17}
"""Smallest height and width in pixels whose last feature map is not empty, by trunk.

Smaller images are refused and none is enlarged, because an enlarged image has another distance. At 32x32 AlexNet works on
maps of 7x7, 3x3 and three times 1x1 pixels: a valid distance, but not one to compare with 224x224.
"""

_BATCH = 8
"""Images per forward pass, which bounds the memory of VGG at 224x224."""


def _lpips_for(options: SuiteOptions) -> Compute:
    if options.lpips_net not in ARCHITECTURES:
        raise unknown_name("LPIPS network", options.lpips_net, ARCHITECTURES)
    network = _network(options)
    minimum = LPIPS_MINIMUM[options.lpips_net]
    if options.image_size is not None and options.image_size < minimum:
        raise MetricUnavailable(_too_small(options.image_size, options.lpips_net))

    @torch.no_grad()
    def compute(reconstruction: Tensor, original: Tensor) -> Tensor:
        height, width = original.shape[-2:]
        if min(height, width) < minimum:
            raise UserError(_too_small(min(height, width), options.lpips_net))
        batches = zip(torch.split(_signed(reconstruction), _BATCH), torch.split(_signed(original), _BATCH), strict=True)
        return torch.cat([network(guess, truth).flatten() for guess, truth in batches]).double()

    return compute


def _too_small(side: int, net: str) -> str:
    minimum = LPIPS_MINIMUM[net]
    return f"LPIPS ({net}) needs {minimum} pixels a side, the images' shorter side has {side}; choose another LPIPS network"


def _signed(images: Tensor) -> Tensor:
    # LPIPS was calibrated on [-1, 1]; fed [0, 1] it returns plausible but wrong values.
    return images.detach().cpu().float() * 2 - 1


def _network(options: SuiteOptions) -> nn.Module:
    network = _empty_network(options.lpips_net)
    places = {name.partition(".")[2]: name for name in network.net.state_dict()}
    shapes = {inner: network.net.state_dict()[name].shape for inner, name in places.items()}
    trunk = load_trunk(options.lpips_net, shapes, file=options.lpips_weights, download=options.download)
    network.net.load_state_dict({places[inner]: value for inner, value in trunk.items()}, assign=True)
    network.lins.load_state_dict(_calibrated_layers(options.lpips_net), assign=True)
    frozen: nn.Module = network.eval().requires_grad_(False)
    return frozen


def _empty_network(net: str) -> Any:
    import lpips  # brings torchvision with it, which a listing of the metrics does not need

    # On the meta device nothing is allocated or drawn at random; the warnings are torchvision's about lpips's old keywords.
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        return lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)


def _calibrated_layers(net: str) -> dict[str, Tensor]:
    with as_file(files("lpips") / "weights" / "v0.1" / f"{net}.pth") as path:
        layers = torch.load(path, map_location="cpu", weights_only=True)
    return {name.removeprefix("lin"): value for name, value in layers.items()}


LPIPS = MetricFactory(
    name="lpips",
    build=_lpips_for,
    higher_is_leakier=False,
    worst=1.0,
    best=0.0,
    summary=(
        "Learned perceptual distance v0.1 (Zhang et al., CVPR 2018) on pixels mapped to [-1, 1], images never resized; from 0 "
        "(exact) to about 1."
    ),
)
