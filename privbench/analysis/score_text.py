"""Scores as words: how tables, pictures and pages write them."""

from collections.abc import Mapping, Sequence

from privbench.core import ImageResult, Interval

__all__ = ["ABSENT", "METRICS", "bounds_text", "caption", "interval_text", "share_text", "value_text"]

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
    """The mean share of the update that the reconstructions of some images explain."""
    shares = [image.explained for image in images if image.explained is not None]
    return f"{sum(shares) / len(shares):.3f}" if shares else ABSENT
