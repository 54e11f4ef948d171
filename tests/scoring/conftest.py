"""Real photos and a suite without weights for the tests of the scores."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.typing import NDArray
from skimage import data, transform
from torch import Tensor

from privbench.scoring import MetricSuite, metric_suite

PHOTOS: tuple[Callable[[], NDArray[Any]], ...] = (data.astronaut, data.chelsea, data.coffee, data.rocket)
resize: Callable[..., NDArray[Any]] = transform.resize


def _photos(size: int) -> Tensor:
    squares = []
    for load in PHOTOS:
        photo = load()
        side = min(photo.shape[:2])
        top, left = (photo.shape[0] - side) // 2, (photo.shape[1] - side) // 2
        square = resize(photo[top : top + side, left : left + side], (size, size), anti_aliasing=True)
        squares.append(torch.from_numpy(square).permute(2, 0, 1))
    # 8-bit pixels, as every data set has them.
    return (torch.stack(squares) * 255).round().float() / 255


@pytest.fixture(scope="session")
def photos() -> Callable[[int], Tensor]:
    """Four photos of scikit-image, `[4, 3, size, size]` in [0, 1]."""
    return _photos


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torchvision cache; returns its folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch-home"))
    return tmp_path / "torch-home" / "hub" / "checkpoints"


@pytest.fixture
def suite(no_weights: Path) -> MetricSuite:
    """All metrics but LPIPS, for 32x32 images in patches of 4."""
    return metric_suite(patch_size=4, image_size=32, lpips_net="squeeze")


@pytest.fixture(scope="session")
def random_trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SqueezeNet 1.1 of random weights, saved whole: as good as the real one for everything but the numbers."""
    from torchvision.models import squeezenet1_1

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = squeezenet1_1(weights=None)
    path = tmp_path_factory.mktemp("weights") / "squeeze.pth"
    torch.save(model.state_dict(), path)
    return path
