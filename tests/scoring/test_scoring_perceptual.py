"""LPIPS: built in silence, equal to an independent implementation, fed [-1, 1]."""

import random
import warnings
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from privbench.core import Metric, UserError
from privbench.scoring import LPIPS_MINIMUM, metric_suite

SQUEEZE_LEVELS = (1, 4, 7, 9, 10, 11, 12)
ALEX_LEVELS = (1, 4, 7, 9, 11)


def _lpips(weights: Path, net: str = "squeeze") -> Metric:
    suite = metric_suite(patch_size=None, lpips_net=net, lpips_weights=weights)
    return next(metric for metric in suite.metrics if metric.name == "lpips")


def _features(weights: Path, net: str) -> torch.nn.Sequential:
    from torchvision.models import alexnet, squeezenet1_1

    with torch.random.fork_rng(devices=[]):
        features: torch.nn.Sequential = (alexnet if net == "alex" else squeezenet1_1)(weights=None).features
    content = torch.load(weights, weights_only=True)
    own = {name.removeprefix("features."): value for name, value in content.items() if not name.startswith("classifier")}
    features.load_state_dict(own)
    return features.eval()


@torch.no_grad()
def _by_the_paper(weights: Path, net: str, first: Tensor, second: Tensor) -> list[float]:
    """Zhang et al. (2018), equation 1: unit-normalised feature differences, weighted by channel, averaged over places."""
    features = _features(weights, net)
    calibrated = torch.load(str(files("lpips") / "weights" / "v0.1" / f"{net}.pth"), weights_only=True, map_location="cpu")
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    values = []
    for pair in zip(first, second, strict=True):
        maps = [((image * 2 - 1) - shift[:, None, None]) / scale[:, None, None] for image in pair]
        total = 0.0
        for index, layer in enumerate(features):
            maps = [layer(image[None])[0] for image in maps]
            levels = SQUEEZE_LEVELS if net == "squeeze" else ALEX_LEVELS
            if index in levels:
                weight = calibrated[f"lin{levels.index(index)}.model.1.weight"].flatten()
                unit = [image / image.norm(dim=0) for image in maps]
                apart = torch.nan_to_num(unit[0]) - torch.nan_to_num(unit[1])
                total += float((weight[:, None, None] * apart**2).sum(dim=0).mean())
        values.append(total)
    return values


@pytest.mark.parametrize("size", [32, 64])
def test_it_equals_the_formula_of_the_paper(size: int, random_trunk: Path, photos: Callable[[int], Tensor]) -> None:
    original, guess = photos(size), photos(size).roll(1, 0)
    expected = _by_the_paper(random_trunk, "squeeze", guess, original)
    assert _lpips(random_trunk).compute(guess, original).tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.integration
@pytest.mark.parametrize(("net", "file"), [("alex", "alexnet"), ("squeeze", "squeezenet1_1")])
def test_real_weights_give_the_values_of_the_paper(
    net: str, file: str, shared_data: Path, photos: Callable[[int], Tensor], generator: torch.Generator
) -> None:
    """By the paper's formula with real weights; on real pictures the order is the one people see."""
    weights = shared_data / "weights" / f"lpips-trunk-{file}-features.pth"
    original = photos(64)
    noisy = (original + 0.1 * torch.randn(original.shape, generator=generator)).clamp(0, 1)
    metric = _lpips(weights, net)
    for guess in (noisy, original.roll(1, 0)):
        assert metric.compute(guess, original).tolist() == pytest.approx(_by_the_paper(weights, net, guess, original), rel=1e-4)
    assert metric.compute(original, original).tolist() == [0.0] * 4
    # Another photo is further away than the same photo with noise, which is what the distance is for.
    assert (metric.compute(noisy, original) < metric.compute(original.roll(1, 0), original)).all()


def test_feeding_zero_to_one_would_give_other_values(shared_data: Path, photos: Callable[[int], Tensor]) -> None:
    """The mistake of public scorers: the network sees [0, 1] where it was calibrated on [-1, 1]."""
    weights = shared_data / "weights" / "lpips-trunk-alexnet-features.pth"
    original, guess = photos(64), photos(64).roll(1, 0)
    right = _lpips(weights, "alex").compute(guess, original)
    # (x + 1) / 2 maps to x, so this is what a scorer without the mapping would report.
    wrong = _lpips(weights, "alex").compute((guess + 1) / 2, (original + 1) / 2)
    assert (right - wrong).abs().mean() > 0.02


def test_it_works_at_32_pixels_without_resizing(random_trunk: Path, photos: Callable[[int], Tensor]) -> None:
    original = photos(32)
    values = _lpips(random_trunk).compute(original.roll(1, 0), original)
    assert torch.isfinite(values).all()
    assert (values > 0).all()


@pytest.mark.parametrize("net", sorted(LPIPS_MINIMUM))
def test_the_minimum_is_where_the_network_begins_to_work(net: str) -> None:
    import lpips

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        with torch.device("meta"):
            network = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False).net
    minimum = LPIPS_MINIMUM[net]
    network(torch.zeros(1, 3, minimum, minimum, device="meta"))
    with pytest.raises(RuntimeError, match="too small"):
        network(torch.zeros(1, 3, minimum - 1, minimum - 1, device="meta"))


def test_smaller_images_are_refused_or_missing_with_a_reason(random_trunk: Path) -> None:
    with pytest.raises(UserError, match="needs 17 pixels a side, the images' shorter side has 16; choose"):
        _lpips(random_trunk).compute(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))
    suite = metric_suite(patch_size=4, image_size=16, lpips_net="squeeze", lpips_weights=random_trunk)
    assert "lpips" not in suite.names
    assert "17 pixels" in suite.unavailable["lpips"]


def test_it_is_built_in_silence_and_leaves_the_process_as_found(
    random_trunk: Path, capfd: pytest.CaptureFixture[str], photos: Callable[[int], Tensor]
) -> None:
    torch_state, numpy_state, python_state = torch.get_rng_state(), repr(np.random.get_state()), random.getstate()  # noqa: NPY002
    before = list(warnings.filters), torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_default_device()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        values = _lpips(random_trunk).compute(photos(32), photos(32).roll(1, 0))
    assert [str(warning.message) for warning in caught] == []
    assert capfd.readouterr() == ("", "")
    assert not values.requires_grad
    after = list(warnings.filters), torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_default_device()
    assert after == before
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert repr(np.random.get_state()) == numpy_state  # noqa: NPY002
    assert random.getstate() == python_state


def test_a_long_batch_is_scored_like_its_parts(random_trunk: Path, generator: torch.Generator) -> None:
    original, guess = torch.rand(19, 3, 32, 32, generator=generator), torch.rand(19, 3, 32, 32, generator=generator)
    metric = _lpips(random_trunk)
    alone = [metric.compute(guess[i : i + 1], original[i : i + 1]).item() for i in (0, 7, 8, 18)]
    assert metric.compute(guess, original)[[0, 7, 8, 18]].tolist() == pytest.approx(alone, rel=1e-5)


def test_an_unknown_network_is_named() -> None:
    with pytest.raises(UserError, match="unknown LPIPS network 'alexnet'; did you mean alex"):
        metric_suite(patch_size=4, lpips_net="alexnet")
