"""`run(live=True)`: a page in the case's folder that shows the attack while it runs; a file that the browser loads again."""

import base64
import html
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from privbench.core import Case, Record
from privbench.core.labels import defense_label
from privbench.runner.listener import Listener, StepReport
from privbench.runner.position import Position
from privbench.store.files import atomic_write

__all__ = ["LIVE", "LivePage"]

LIVE = "live.html"
_INTERVAL = 2.0
"""Seconds between two states of the page."""
_POINTS = 300
"""So many values of a loss are drawn."""
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 1rem auto; max-width: 60rem; padding: 0 1rem; }
img { width: 6rem; height: 6rem; image-rendering: pixelated; object-fit: contain; } progress { width: 100%; }
figure { display: inline-block; margin: .3rem; } figcaption { font-size: .8rem; } svg { width: 100%; height: 8rem; }
polyline { fill: none; stroke: currentColor; stroke-width: 1.5; vector-effect: non-scaling-stroke; }
"""


class LivePage(Listener):
    """Writes the page, and hands everything on to another listener.

    Args:
        folder: Of all cases.
        beside: The other listener.
    """

    def __init__(self, folder: Path, beside: Listener) -> None:
        self.folder = folder
        self.beside = beside
        self._position: Position | None = None
        self._guesses: dict[int, Tensor] = {}
        self._losses: dict[str, list[float]] = {}
        self._written = 0.0

    def planned(self, cases: Sequence[Case]) -> None:
        """Hands it on."""
        self.beside.planned(cases)

    def started(self, case: Case, batches: int, finished: Sequence[int]) -> None:
        """Begins a page, and says where it is."""
        self.beside.started(case, batches, finished)
        self._position = Position(case, defense_label(case), batches, finished)
        self._guesses, self._losses = {}, {}
        self._write(case, force=True)
        self.beside.note(f"live view: {self.folder / case.folder / LIVE}")

    def reused(self, record: Record) -> None:
        """Hands it on."""
        self.beside.reused(record)

    def group(self, case: Case, batches: Sequence[int]) -> None:
        """Hands it on."""
        self.beside.group(case, batches)

    def step(self, case: Case, at: StepReport) -> None:
        """Keeps the losses and writes the page where it is due."""
        self.beside.step(case, at)
        if self._position is not None:
            self._position.moved(at)
            for name, value in self._position.losses.items():
                self._losses.setdefault(name, []).append(value)
            self._write(case)

    def picture(self, case: Case, batches: Sequence[int], guesses: Sequence[Tensor]) -> None:
        """Keeps the guesses."""
        self.beside.picture(case, batches, guesses)
        self._guesses.update(zip(batches, guesses, strict=True))

    def batch(self, case: Case, batch: int) -> None:
        """Hands it on."""
        self.beside.batch(case, batch)
        if self._position is not None:
            self._position.scored(batch)
            self._write(case)

    def note(self, message: str) -> None:
        """Hands it on."""
        self.beside.note(message)

    def finished(self, record: Record) -> None:
        """Writes the last state, which is not loaded again."""
        self.beside.finished(record)
        self._write(record.case, force=True, done=True)

    def _write(self, case: Case, *, force: bool = False, done: bool = False) -> None:
        now = time.perf_counter()
        if self._position is not None and (force or now - self._written >= _INTERVAL):
            self._written = now
            page = live_page(case, self._position, self._losses, self._guesses, done=done)
            atomic_write(self.folder / case.folder / LIVE, page.encode())


def live_page(
    case: Case, where: Position, losses: Mapping[str, Sequence[float]], guesses: Mapping[int, Tensor], *, done: bool
) -> str:
    """The page.

    Args:
        case: The case.
        where: How far it is.
        losses: The values of each by now.
        guesses: Client batch to `[batch, 3, height, width]` uint8.
        done: Whether the case is finished, so that nothing changes any more.
    """
    title = html.escape(f"{where.label}: {case.attack.name}, {case.threat_model.adversary} adversary")
    refresh = "" if done else f'<meta http-equiv="refresh" content="{_INTERVAL:g}">'
    state = "finished: comparison.png has the pictures" if done else f"{where.place}, {where.time_text}"
    pictures = "".join(
        f'<figure><img alt="reconstruction of image {number + 1} so far" src="{_uri(image)}">'
        f"<figcaption>image {number + 1}</figcaption></figure>"
        for number, image in enumerate(image for _, guess in sorted(guesses.items()) for image in guess)
    )
    drawn = "".join(_loss(name, values) for name, values in losses.items())
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">{refresh}<title>privbench: {title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
        f'<h1>{title}</h1><p>{html.escape(state)}</p><progress value="{where.fraction:.4f}" aria-label="share done"></progress>'
        f"<p>{html.escape(where.phase)}</p>{pictures}{drawn}</body></html>\n"
    )


def _uri(image: Tensor) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().to(torch.uint8).numpy()).save(buffer, "WEBP", lossless=True)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _loss(name: str, values: Sequence[float]) -> str:
    thinned = values[:: max(1, len(values) // _POINTS)]
    low, high = min(thinned), max(thinned)
    span = (high - low) or 1.0
    points = " ".join(
        f"{400 * place / max(len(thinned) - 1, 1):.0f},{76 - 72 * (value - low) / span:.0f}"
        for place, value in enumerate(thinned)
    )
    caption = f"{html.escape(name)}: {values[-1]:.4g}"
    label = f"loss {caption} by step"
    return (
        f'<h2>{caption}</h2><svg viewBox="0 0 400 80" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f'<polyline points="{points}"/></svg>'
    )
