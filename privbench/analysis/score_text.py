"""Scores as words: how tables, pictures and pages write them."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from privbench.core import ImageResult, Interval, mean_explained

__all__ = [
    "ABSENT",
    "METRICS",
    "best_of_batches",
    "bounds_text",
    "caption",
    "found_text",
    "interval_text",
    "mean_score",
    "share_text",
    "value_text",
]

METRICS: Mapping[str, str] = {"psnr": "PSNR dB", "ssim": "SSIM", "lpips": "LPIPS", "psnr_patch": "PSNR-patch dB"}
"""The metrics that tables and pictures show, and their headings; the record holds all."""

ABSENT = "n/a"
"""What is written where there is no score."""

_DIGITS = {"psnr": 2, "ssim": 3, "lpips": 3, "psnr_patch": 2}


def value_text(name: str, value: float | None) -> str:
    """A score as a table shows it."""
    if value is None:
        return ABSENT
    # Adding zero takes the sign off a value that rounds to it.
    return f"{round(value, _DIGITS[name]) + 0.0:.{_DIGITS[name]}f}"


def interval_text(name: str, interval: Interval | None) -> str:
    """`mean [low, high]`."""
    return ABSENT if interval is None else f"{value_text(name, interval.mean)} {bounds_text(name, interval)}"


def bounds_text(name: str, interval: Interval | None) -> str:
    """`[low, high]`."""
    if interval is None:
        return ABSENT
    return f"[{value_text(name, interval.low)}, {value_text(name, interval.high)}]"


def caption(image: ImageResult) -> str:
    """The scores of one image in two lines, for a picture."""
    if image.failure:
        return image.failure[:40]
    words = {"psnr": "PSNR {} dB", "ssim": "SSIM {}", "lpips": "LPIPS {}", "psnr_patch": "patch {} dB"}
    texts = {name: words[name].format(value_text(name, image.scores.get(name))) for name in METRICS if name in image.scores}
    first = "   ".join(texts[name] for name in ("psnr", "ssim") if name in texts)
    second = "   ".join(texts[name] for name in ("lpips", "psnr_patch") if name in texts)
    return "\n".join(line for line in (first, second) if line)


def share_text(images: Sequence[ImageResult]) -> str:
    """The share of the update that one reconstruction explains, or the mean over several, of which each counts 0 at least."""
    share = images[0].explained if len(images) == 1 else mean_explained(images)
    return ABSENT if share is None else f"{share:.3f}"


def found_text(images: Sequence[ImageResult]) -> str:
    """Of one image of a batch whether it was found, of several how many were."""
    found = [image.found for image in images if image.found is not None]
    if not found:
        return ABSENT
    return ("yes" if found[0] else "no") if len(found) == 1 else f"{sum(found)} of {len(found)}"


def best_of_batches(images: Sequence[ImageResult]) -> list[ImageResult]:
    """The image of each batch that came back best by PSNR: a batch protects no better than that."""
    best: dict[int, ImageResult] = {}
    for image in images:
        if image.batch not in best or image.scores["psnr"] > best[image.batch].scores["psnr"]:
            best[image.batch] = image
    return list(best.values())


def mean_score(images: Sequence[ImageResult], metric: str) -> float | None:
    """The mean of a metric over images; None where one has no such score."""
    scores = [image.scores.get(metric) for image in images]
    known = [score for score in scores if score is not None]
    return fmean(known) if known and len(known) == len(scores) else None
