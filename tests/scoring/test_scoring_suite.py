"""The set of metrics: all built-ins, third parties' metrics, and a reason for each missing one."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from privbench.core import METRICS, Metric, UserError
from privbench.scoring import BUILT_IN, MetricFactory, MetricSuite, SuiteOptions, metric_suite, registered_metric, score_batch


def _mean_error(reconstruction: Tensor, original: Tensor) -> Tensor:
    return (reconstruction - original).abs().flatten(1).mean(dim=1)


def _third_party(name: str = "mean_error", compute: Callable[[Tensor, Tensor], Tensor] = _mean_error) -> Metric:
    return Metric(name, compute, higher_is_leakier=False, worst=1.0, best=0.0, summary="Mean absolute error.")


def test_everything_is_there_when_everything_is_given(random_trunk: Path) -> None:
    suite = metric_suite(patch_size=4, image_size=32, lpips_net="squeeze", lpips_weights=random_trunk)
    assert suite.names == tuple(BUILT_IN)
    assert suite.unavailable == {}
    assert suite.lpips_weights_sha256 == hashlib.sha256(random_trunk.read_bytes()).hexdigest()
    assert all(isinstance(metric, Metric) for metric in suite.metrics)


def test_every_metric_is_either_there_or_has_a_reason(no_weights: Path) -> None:
    suite = metric_suite(patch_size=None, image_size=8)
    assert suite.lpips_weights_sha256 is None
    assert set(suite.names) == {"psnr", "mse", "fft2d_cosine", "fft2d_mse", "ssim_zero_padded"}
    assert set(suite.unavailable) == {"ssim", "lpips", "psnr_patch", "ssim_patch"}
    assert "11 pixels" in suite.unavailable["ssim"]
    assert all(reason and "\n" not in reason for reason in suite.unavailable.values())


def test_the_registry_knows_the_built_ins() -> None:
    assert set(BUILT_IN) <= set(METRICS.names())
    for name in BUILT_IN:
        assert registered_metric(name) is METRICS.get(name)


def test_a_third_partys_metric_is_scored_like_the_built_ins(suite: MetricSuite, photos: Callable[[int], Tensor]) -> None:
    original = photos(32)
    METRICS.register("mean_error", _third_party())
    try:
        extended = metric_suite(patch_size=4, image_size=32, lpips_net="squeeze")
    finally:
        METRICS.unregister("mean_error")
    assert extended.names == (*suite.names, "mean_error")
    scores = score_batch(original.roll(1, 0) * 0.5, original, extended)
    assert all(0 < image.scores["mean_error"] < 1 for image in scores)


def test_a_third_partys_factory_gets_the_options(no_weights: Path) -> None:
    seen: list[SuiteOptions] = []

    def build(options: SuiteOptions) -> Callable[[Tensor, Tensor], Tensor]:
        seen.append(options)
        return _mean_error

    METRICS.register("mean_error", MetricFactory("mean_error", build, higher_is_leakier=False, worst=1.0, best=0.0))
    try:
        suite = metric_suite(patch_size=16, image_size=224)
    finally:
        METRICS.unregister("mean_error")
    assert "mean_error" in suite.names
    assert seen == [SuiteOptions(patch_size=16, image_size=224)]


@pytest.mark.parametrize(
    ("component", "words"),
    [("psnr", "is a str; accepted: a Metric"), (_third_party("other"), "calls itself 'other'")],
)
def test_a_wrong_registration_is_a_reason_that_names_it(component: object, words: str, no_weights: Path) -> None:
    METRICS._targets()["mine"] = ("their.module:METRIC", lambda: component)
    try:
        suite = metric_suite(patch_size=4)
        with pytest.raises(UserError, match=r"metric 'mine' \(their.module:METRIC\)"):
            registered_metric("mine")
    finally:
        METRICS.unregister("mine")
    assert words in suite.unavailable["mine"]
    assert "psnr" in suite.names


def test_a_plug_in_that_cannot_be_imported_does_not_take_the_others_with_it(no_weights: Path) -> None:
    def load() -> Metric:
        raise ImportError("no module named\nspeed")

    METRICS._targets()["mine"] = ("their.module:METRIC", load)
    try:
        suite = metric_suite(patch_size=4)
    finally:
        METRICS.unregister("mine")
    assert "ImportError: no module named speed" in suite.unavailable["mine"]
    assert "psnr" in suite.names


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.full((4,), float("nan")), "NaN"),
        (torch.full((4,), float("inf")), "infinite"),
        (torch.tensor(1.0), "one value each"),
        (torch.zeros(4, 1), "one value each"),
    ],
)
def test_a_metric_that_breaks_its_contract_is_named(value: Tensor, words: str, photos: Callable[[int], Tensor]) -> None:
    broken = MetricSuite((_third_party("theirs", lambda *_: value),), {})
    with pytest.raises(RuntimeError, match=f"metric theirs returned .*{words}"):
        score_batch(photos(32), photos(32), broken)
