"""The one rounding rule, and what is refused before it becomes a NaN in a table."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from privbench.scoring import MetricSuite, from_uint8, pair, score_batch, to_uint8


def test_all_256_levels_survive_the_round_trip() -> None:
    levels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(to_uint8(from_uint8(levels).to(dtype)), levels)


def test_ties_go_away_from_zero_and_nothing_is_truncated() -> None:
    values = torch.tensor([0.5, 1.5, 2.5, 126.5, 254.5, 0.49, 254.51], dtype=torch.float64) / 255
    images = values.view(1, 1, 1, 7).expand(1, 3, 1, 7)
    assert to_uint8(images)[0, 0, 0].tolist() == [1, 2, 3, 127, 255, 0, 255]


def test_no_pixel_moves_by_more_than_half_a_level(generator: torch.Generator) -> None:
    images = torch.rand(4, 3, 32, 32, generator=generator)
    difference = (from_uint8(to_uint8(images)).double() - images.double()).abs().max().item()
    assert 0.49 / 255 < difference <= 0.5 / 255 + 1e-7


def test_the_saved_scores_are_those_of_the_saved_file(suite: MetricSuite, generator: torch.Generator, tmp_path: Path) -> None:
    original = from_uint8((torch.rand(1, 3, 32, 32, generator=generator) * 255).to(torch.uint8))
    guess = (original + 0.004 * torch.randn(original.shape, generator=generator)).clamp(0, 1)
    Image.fromarray(to_uint8(guess)[0].permute(1, 2, 0).numpy()).save(tmp_path / "guess.png")
    file = torch.from_numpy(np.asarray(Image.open(tmp_path / "guess.png")).copy()).permute(2, 0, 1)[None]
    scores = score_batch(guess, original, suite)[0]
    from_file = score_batch(from_uint8(file), original, suite)[0]
    assert scores.scores_saved == from_file.scores
    assert scores.scores_saved["psnr"] != pytest.approx(scores.scores["psnr"], abs=0.05)


def _with(value: float) -> Tensor:
    images = torch.full((3, 3, 16, 16), 0.5)
    images[1, 2, 3, 4] = value
    return images


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (_with(float("nan")), "1 holds NaN or infinite pixels"),
        (_with(float("inf")), "1 holds NaN or infinite pixels"),
        (_with(1.001), r"1 leaves \[0, 1\]: the batch spans 0.5 to 1.001"),
        (_with(-2.1), r"1 leaves \[0, 1\]: the batch spans -2.1 to 0.5"),
        (torch.zeros(3, 3, 16, 16, dtype=torch.uint8), r"dtype torch.uint8; accepted: float .*from_uint8"),
        (torch.zeros(3, 16, 16), r"shape \(3, 16, 16\); accepted: \[batch, 3, height, width\]"),
        (torch.zeros(3, 1, 16, 16), r"shape \(3, 1, 16, 16\)"),
        (torch.zeros(0, 3, 16, 16), r"shape \(0, 3, 16, 16\).*nothing empty"),
    ],
)
def test_what_is_no_image_is_refused_by_name(images: Tensor, words: str, suite: MetricSuite) -> None:
    good = torch.full((3, 3, 16, 16), 0.5)
    for refuse in (pair, lambda guess, truth: score_batch(guess, truth, suite)):
        with pytest.raises(ValueError, match=f"^reconstruction .*{words}"):
            refuse(images, good)
        with pytest.raises(ValueError, match=f"^original .*{words}"):
            refuse(good, images)
    with pytest.raises(ValueError, match=f"^images .*{words}"):
        to_uint8(images)


def test_from_uint8_refuses_floats() -> None:
    with pytest.raises(ValueError, match=r"dtype torch.float32; accepted: uint8"):
        from_uint8(torch.zeros(1, 3, 4, 4))
