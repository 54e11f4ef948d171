"""The scores of a batch, and the mistakes of public scorers that they must not repeat."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import skimage.metrics
import torch
from torch import Tensor

from privbench.scoring import PSNR_CAP, MetricSuite, bootstrap_interval, failed_scores, metric_suite, psnr, score_batch


def _noisy(images: Tensor, level: float, generator: torch.Generator) -> Tensor:
    return (images + level * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def _only(images: Tensor) -> Tensor:
    return images[:1]


def test_one_exact_image_makes_neither_itself_nor_the_others_infinite(
    suite: MetricSuite, photos: Callable[[int], Tensor], generator: torch.Generator
) -> None:
    """Mistake: PSNR infinite for a whole batch when one image is exact."""
    original = photos(32)
    guess = _noisy(original, 0.2, generator)
    before = score_batch(guess, original, suite)
    guess[2] = original[2]
    after = score_batch(guess, original, suite)
    assert after[2].scores["psnr"] == PSNR_CAP
    for index in (0, 1, 3):
        assert after[index].scores == pytest.approx(before[index].scores)
    assert bootstrap_interval([image.scores["psnr"] for image in after], seed=0).mean < PSNR_CAP
    json.dumps([image.scores for image in after], allow_nan=False)


def test_psnr_is_per_image_neither_summed_nor_pooled(suite: MetricSuite) -> None:
    """Mistake: PSNR as a sum, or of the error pooled over the batch."""
    original = torch.tensor([0.2, 0.8]).view(2, 1, 1, 1).expand(2, 3, 32, 32)
    guess = original + torch.tensor([0.1, 0.001]).view(2, 1, 1, 1)
    values = [image.scores["psnr"] for image in score_batch(guess, original, suite)]
    assert values == pytest.approx([20, 60], abs=1e-3)
    pooled = -10 * torch.log10((guess - original).square().mean()).item()
    assert bootstrap_interval(values, seed=0).mean == pytest.approx(40, abs=1e-3)
    assert pooled == pytest.approx(23.01, abs=0.01)


def test_normalised_tensors_are_refused_and_the_range_of_ssim_is_that_of_the_pixels(
    suite: MetricSuite, photos: Callable[[int], Tensor], generator: torch.Generator
) -> None:
    """Mistake: SSIM with a hard-coded range, or on tensors normalised for the network."""
    original = photos(32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (original - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with pytest.raises(ValueError, match=r"original 0 leaves \[0, 1\].*un-normalise"):
        score_batch(original, normalised, suite)

    dim = original * 0.4
    guess = _noisy(dim, 0.05, generator)
    arrays = dim[0].double().numpy(), guess[0].double().numpy()

    def with_range(data_range: float) -> float:
        ssim: Callable[..., float] = skimage.metrics.structural_similarity
        return ssim(
            *arrays, data_range=data_range, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )

    value = score_batch(guess, dim, suite)[0].scores["ssim"]
    assert value == pytest.approx(with_range(1.0), rel=1e-12)
    for wrong in (2.0, 255.0, float(arrays[0].max() - arrays[0].min())):
        assert abs(value - with_range(wrong)) > 0.005


def test_failures_count_as_failures(suite: MetricSuite, photos: Callable[[int], Tensor]) -> None:
    """Mistake: failed trials dropped from the mean."""
    original = photos(32)
    scores = [image.scores for image in score_batch(original, original, suite)]
    failed = failed_scores(suite)
    assert set(failed) == set(scores[0]) == set(suite.names)
    assert failed == {metric.name: metric.worst for metric in suite.metrics}
    interval = bootstrap_interval([image["psnr"] for image in scores] + [failed["psnr"]] * 4, seed=0)
    assert interval.n == 8
    assert interval.mean == PSNR_CAP / 2


def test_a_shuffled_recovery_is_low_when_aligned_and_perfect_in_the_patch_scores(
    suite: MetricSuite, photos: Callable[[int], Tensor]
) -> None:
    """Mistake: pixel-aligned scores of shuffled reconstructions, and nothing else."""
    original = _only(photos(32))
    shuffled = original.roll((8, 12), (-2, -1))
    scores = score_batch(shuffled, original, suite)[0].scores
    assert scores["psnr"] < 15
    assert scores["psnr_patch"] == PSNR_CAP


def test_float_and_8_bit_scores_are_told_apart(suite: MetricSuite, generator: torch.Generator) -> None:
    """Mistake: 8-bit rounding in some tables and not in others. Here both stand, under their own names."""
    original = torch.rand(2, 3, 32, 32, generator=generator)
    for image in score_batch(original, original, suite):
        assert image.scores["psnr"] == PSNR_CAP
        assert image.scores_saved["psnr"] == pytest.approx(58.92, abs=0.3)
        assert image.scores_saved["mse"] == pytest.approx(1 / (12 * 255**2), rel=0.1)
        assert set(image.scores) == set(image.scores_saved) == set(suite.names)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_any_float_type_is_scored_and_the_answer_is_plain_numbers(
    dtype: torch.dtype, suite: MetricSuite, photos: Callable[[int], Tensor]
) -> None:
    original = photos(32)
    guess = original.to(dtype).requires_grad_()
    for image in score_batch(guess, original, suite):
        assert all(type(value) is float for value in (*image.scores.values(), *image.scores_saved.values()))
        assert type(image.source) is int
        assert image.scores["psnr"] > 60


def test_every_score_of_odd_but_valid_images_is_finite(suite: MetricSuite, generator: torch.Generator) -> None:
    black, white = torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)
    dot = black.clone()
    dot[..., 5, 7] = 1
    odd = [black, white, dot, torch.rand(1, 3, 32, 32, generator=generator).round(), torch.full((1, 3, 32, 32), 1e-30)]
    for guess in odd:
        for original in odd:
            # A NaN or an infinity would raise.
            scores = score_batch(guess, original, suite)[0]
            assert 0 <= scores.scores["psnr"] <= PSNR_CAP
            assert -1 <= scores.scores["ssim"] <= 1


def test_scoring_is_quick(suite: MetricSuite, photos: Callable[[int], Tensor], generator: torch.Generator) -> None:
    small = torch.rand(32, 3, 32, 32, generator=generator)
    score_batch(small[:1], small[:1], suite)
    start = time.process_time()
    score_batch(small.flip(0), small, suite)
    assert time.process_time() - start < 2, "0.1 s of an idle core"
    large, suite_large = _only(photos(224)), metric_suite(patch_size=16, image_size=224)
    start = time.process_time()
    score_batch(_noisy(large, 0.1, generator), large, suite_large)
    assert time.process_time() - start < 3, "0.2 s of an idle core"


@pytest.mark.integration
def test_real_images_of_the_benchmark(suite: MetricSuite, shared_data: Path, generator: torch.Generator) -> None:
    """On genuine 224x224 validation images: noise of a known size has the PSNR that follows from it."""
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    files = sorted((shared_data / "imagenet-val").glob("*/*.JPEG"))[:60:20]
    original = torch.stack([pil_to_tensor(Image.open(file).convert("RGB")) for file in files]).float() / 255
    original = original * 0.8 + 0.1
    noisy = original + (torch.rand(original.shape, generator=generator) - 0.5) * 0.2
    suite = metric_suite(patch_size=16, image_size=224)
    scores = score_batch(noisy.roll(1, 0), original, suite)
    expected = 10 * torch.log10(torch.tensor(12 / 0.2**2)).item()
    assert [image.source for image in scores] == [1, 2, 0]
    assert [image.scores["psnr"] for image in scores] == pytest.approx([expected] * 3, abs=0.05)
    assert all(image.scores["psnr_patch"] >= image.scores["psnr"] - 1e-9 for image in scores)
    assert psnr(noisy, original).tolist() == pytest.approx([image.scores["psnr"] for image in scores])
