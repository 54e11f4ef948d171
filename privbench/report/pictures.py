"""The pictures of the report: which images of a case are shown, small and each held once, and its losses as a drawing."""

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from privbench.core import ImageResult, Record
from privbench.report.cells import Pixels, Presentation
from privbench.runner.animation import animation_frames
from privbench.store.layout import COMPARISON, EVOLUTION

__all__ = [
    "Evolution",
    "PictureStore",
    "Tile",
    "animation_steps",
    "case_evolution",
    "case_tiles",
    "losses_legend",
    "losses_svg",
]

_LARGEST = 160
"""Images with more pixels on a side are reduced to this."""
_SMALL = 64
"""Up to so many pixels on a side an image is small."""
_QUALITY = 88
_RANKS = ("highest leakage", "median leakage", "lowest leakage")


@dataclass
class PictureStore:
    """Every picture of a page once, as WebP, by a short key.

    Attributes:
        exact: Whether small pictures are kept pixel for pixel; a page of many cases has no room for that.
        content: Key to the data URI's base64 text.
    """

    exact: bool = True
    content: dict[str, str] = field(default_factory=dict)

    def add(self, pixels: Pixels, *, reduce: bool = True) -> str:
        """Keeps an image `[height, width, 3]`, a large one reduced, and returns its key."""
        identity = hashlib.sha256(pixels.tobytes() + str(pixels.shape).encode()).hexdigest()[:12]
        if identity not in self.content:
            image = Image.fromarray(np.ascontiguousarray(pixels))
            if reduce:
                image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.BOX)
            buffer = io.BytesIO()
            exact = self.exact and max(image.size) <= _SMALL
            image.save(buffer, "WEBP", lossless=exact, quality=100 if exact else _QUALITY, method=4)
            self.content[identity] = base64.b64encode(buffer.getvalue()).decode()
        return identity

    def uri(self, key: str) -> str:
        """The image as a data URI."""
        return f"data:image/webp;base64,{self.content[key]}"


@dataclass(frozen=True)
class Tile:
    """One image of a case.

    Attributes:
        name: Of the private image.
        rank: Why it is shown: its place by leakage.
        score: Its PSNR and more, in words.
        original: Key of the private image; empty where no picture beside the record shows it.
        fed: Key of what the client fed its model; empty where that is the original or not shown.
        found: Key of the reconstruction; empty where the attack failed.
    """

    name: str
    rank: str
    score: str
    original: str
    fed: str
    found: str


def case_tiles(folder: Path, record: Record, presentation: Presentation, store: PictureStore) -> list[Tile]:
    """Of the images of a case that have pictures the ones with highest, median and lowest PSNR."""
    compared = _compared(folder, record, presentation)
    shown = [
        (place, image)
        for place, image in enumerate(record.images)
        if place < len(compared) or _picture(folder, image) is not None or image.failure
    ]
    if not shown or not any(place < len(compared) or _picture(folder, image) is not None for place, image in shown):
        return []
    ordered = sorted(shown, key=lambda one: -(one[1].scores.get("psnr") or 0.0))
    places = dict(zip(_RANKS, (0, len(ordered) // 2, len(ordered) - 1), strict=True))
    chosen: dict[int, list[str]] = {}
    for rank, place in places.items():
        chosen.setdefault(place, []).append(rank)
    return [_tile(folder, *ordered[place], ", ".join(ranks), compared, presentation, store) for place, ranks in chosen.items()]


def _tile(
    folder: Path,
    place: int,
    image: ImageResult,
    rank: str,
    compared: Sequence[tuple[Pixels, Pixels, Pixels]],
    presentation: Presentation,
    store: PictureStore,
) -> Tile:
    score = ", ".join(
        f"{heading.split()[0]} {presentation.number(name, image.scores.get(name))}" + (" dB" if heading.endswith("dB") else "")
        for name, heading in presentation.metrics.items()
        if name in image.scores
    )
    original = fed = ""
    if place < len(compared):
        original, fed = (store.add(pixels) for pixels in compared[place][:2])
    found = _picture(folder, image)
    if found is None and place < len(compared) and not image.failure:
        found = compared[place][2]
    key = "" if found is None or image.failure else store.add(found)
    return Tile(image.image, rank, score or "failed", original, "" if fed == original else fed, key)


def _picture(folder: Path, image: ImageResult) -> Pixels | None:
    if image.reconstruction is None or not (folder / image.reconstruction).is_file():
        return None
    return _read(folder / image.reconstruction)


def _read(path: Path) -> Pixels | None:
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except OSError:
        return None


def _compared(folder: Path, record: Record, presentation: Presentation) -> Sequence[tuple[Pixels, Pixels, Pixels]]:
    path = folder / COMPARISON
    if not path.is_file():
        return ()
    return presentation.comparison(path.read_bytes(), len(record.images), record.case.victim.model.image_size)


@dataclass(frozen=True)
class Evolution:
    """The first image of a case on the way: frames beside each other in one picture.

    Attributes:
        key: Of that picture.
        steps: The step of each frame.
        side: Of a frame, in pixels.
    """

    key: str
    steps: tuple[str, ...]
    side: int


def case_evolution(folder: Path, record: Record, trace: pd.DataFrame, store: PictureStore) -> Evolution | None:
    """The frames that the attack showed of its first image; None where no animation lies beside the record."""
    if not (folder / EVOLUTION).is_file():
        return None
    shown = animation_frames((folder / EVOLUTION).read_bytes(), record.case.victim.model.image_size)
    if len(shown) < 2:
        return None
    frames = [frame[len(frame) // 2] for frame in shown]
    steps = animation_steps(trace, len(frames))
    # Beside each other, no wider than WebP can be.
    small = [frame[:: -(-len(frame) // 64), :: -(-len(frame) // 64)] for frame in frames]
    return Evolution(store.add(np.concatenate(small, axis=1), reduce=False), steps, len(small[0]))


def animation_steps(trace: pd.DataFrame, frames: int) -> tuple[str, ...]:
    """The steps of an animation's frames: those that were scored on the way; else their numbers."""
    scored = [str(step) for step in trace.index[trace["psnr"].notna()]] if "psnr" in trace else []
    return tuple(scored if len(scored) == frames else map(str, range(1, frames + 1)))


def losses_svg(trace: pd.DataFrame) -> str:
    """The losses of a case by step, each from its own least to its own largest value on a logarithmic axis, as inline SVG.

    Args:
        trace: Of `mean_trace`: indexed by step, the column `phase` and one per loss.

    Returns:
        A drawing in the colours of the page; empty where nothing positive was reported twice.
    """
    losses = {str(name): trace[name].dropna() for name in trace if name not in {"phase", "psnr"}}
    drawn = {name: values[values > 0] for name, values in losses.items()}
    drawn = {name: values for name, values in drawn.items() if len(values) > 1}
    if not drawn:
        return ""
    last = max(float(values.index.max()) for values in drawn.values()) or 1.0
    lines = []
    for place, values in enumerate(drawn.values()):
        thinned = values.iloc[:: max(1, len(values) // 50)]
        logs = np.log10(thinned.to_numpy())
        span = float(np.ptp(logs)) or 1.0
        x = 2 + 396 * thinned.index.to_numpy(float) / last
        y = 78 - 76 * (logs - logs.min()) / span
        points = " ".join(f"{one:.0f},{other:.0f}" for one, other in zip(x, y, strict=True))
        lines.append(f'<polyline class="c{place % 6}" points="{points}"/>')
    return f'<svg viewBox="0 0 400 80" role="img" aria-label="Losses by step">{"".join(lines)}</svg>'


def losses_legend(trace: pd.DataFrame) -> Mapping[str, tuple[float, float]]:
    """Each drawn loss with its first and its last value."""
    found = {}
    for name in trace:
        values = trace[name].dropna() if name not in {"phase", "psnr"} else trace[name].iloc[:0]
        values = values[values > 0] if len(values) else values
        if len(values) > 1:
            found[str(name)] = (float(values.iloc[0]), float(values.iloc[-1]))
    return found
