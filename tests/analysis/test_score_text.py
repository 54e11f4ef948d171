"""Numbers as the tables and pictures of `privbench run` show them."""

import pytest

from privbench.analysis.score_text import caption, interval_text, value_text
from privbench.core import ImageResult, Interval


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [("psnr", 12.345678, "12.35"), ("ssim", -0.0001, "0.000"), ("ssim", -0.0006, "-0.001"), ("lpips", None, "n/a")],
)
def test_values(name: str, value: float | None, text: str) -> None:
    assert value_text(name, value) == text


def test_intervals() -> None:
    assert interval_text("psnr", Interval(mean=20.0, low=18.5, high=21.25, n=4)) == "20.00 [18.50, 21.25]"
    assert interval_text("lpips", None) == "n/a"


def image(**changes: object) -> ImageResult:
    scores = {"psnr": 20.0, "ssim": 0.5, "psnr_patch": 21.0}
    return ImageResult.model_validate(
        {
            "image": "a",
            "batch": 0,
            "label": 0,
            "recovered_label": None,
            "scores": scores,
            "scores_saved": scores,
            "losses": {},
            "steps": 1,
            "seconds": 1.0,
            "reconstruction": None,
            **changes,
        }
    )


def test_a_caption_holds_the_scores_that_there_are_or_the_failure() -> None:
    assert caption(image()) == "PSNR 20.00 dB   SSIM 0.500\npatch 21.00 dB"
    with_lpips = image(scores={"psnr": 20.0, "ssim": 0.5, "lpips": 0.25, "psnr_patch": 21.0})
    assert caption(with_lpips) == "PSNR 20.00 dB   SSIM 0.500\nLPIPS 0.250   patch 21.00 dB"
    assert caption(image(failure="RuntimeError: no")) == "RuntimeError: no"
