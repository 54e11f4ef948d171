"""LPIPS with the trunk in the package: the authors' published values, and the `lpips` package's with full weights."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from privbench.core import Metric
from privbench.scoring import metric_suite
from privbench.scoring.embedded_trunk import PARTS, embedded_trunk
from privbench.scoring.weights import make

REFERENCE = Path(__file__).parent / "lpips_reference"


def _metric() -> Metric:
    return next(metric for metric in metric_suite(patch_size=None).metrics if metric.name == "lpips")


def _picture(name: str) -> Tensor:
    pixels = np.asarray(Image.open(REFERENCE / name).convert("RGB")).copy()
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def _package(weights: Path) -> Any:
    """The authors' network with torchvision's weights in full precision."""
    import lpips

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net="alex", pretrained=True, pnet_rand=True, verbose=False).eval()
    trunk = torch.load(weights, weights_only=True)
    network.net.load_state_dict({name: trunk[f"features.{name.partition('.')[2]}"] for name in network.net.state_dict()})
    return network


@pytest.mark.parametrize(("name", "published"), [("ex_p0.png", 0.722), ("ex_p1.png", 0.138)])
def test_the_reference_pair_of_the_authors_has_the_published_distance(name: str, published: float, no_weights: Path) -> None:
    """The README of Zhang et al.'s repository prints both values; the pictures are theirs (BSD 2-Clause)."""
    assert _metric().compute(_picture(name), _picture("ex_ref.png")).item() == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize("size", [32, 64, 224])
def test_it_equals_the_package_within_a_thousandth(
    size: int, shared_data: Path, photos: Callable[[int], Tensor], generator: torch.Generator
) -> None:
    original = photos(size)
    package, metric = _package(shared_data / "weights" / "lpips-trunk-alexnet-features.pth"), _metric()
    noise = torch.randn(original.shape, generator=generator)
    for guess in (original.roll(1, 0), *((original + std * noise).clamp(0, 1) for std in (0.2, 0.03, 0.003)), original * 0.98):
        with torch.no_grad():
            expected = package(guess * 2 - 1, original * 2 - 1).flatten()
        assert metric.compute(guess, original).tolist() == pytest.approx(expected.tolist(), rel=1e-3)


def test_the_files_are_what_the_command_beside_them_makes(shared_data: Path, tmp_path: Path) -> None:
    make.write(shared_data / "weights" / "lpips-trunk-alexnet-features.pth", tmp_path)
    made = {name: value.float() for part in PARTS for name, value in load_file(tmp_path / part).items()}
    embedded = embedded_trunk("alex")
    assert embedded is not None
    assert made.keys() == embedded.keys()
    assert all(torch.equal(made[name], embedded[name]) for name in made)


def test_other_trunks_are_not_in_the_package() -> None:
    assert embedded_trunk("vgg") is None
    assert embedded_trunk("squeeze") is None
