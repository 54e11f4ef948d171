"""The live view: a page in the case's folder that shows the attack while it runs; a plain file that the browser loads again."""

import base64
import html
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from privbench.core import Case, Record
from privbench.core.labels import defense_label
from privbench.runner.listener import Listener, StepReport
from privbench.store.files import atomic_write
from privbench.watch.position import Position

__all__ = ["LIVE", "LivePage", "LiveView"]

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
    """Writes the page.

    Args:
        folder: Of all cases.
        note: Told where the page is.
    """

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        self.folder = folder
        self._note = note
        self._view: LiveView | None = None
        self._written = 0.0

    def started(self, case: Case, batches: int, finished: Sequence[int]) -> None:
        """Begins a page, and says where it is."""
        self._view = LiveView(case, batches, finished)
        self._write(force=True)
        self._note(f"live view: {self.folder / case.folder / LIVE}")

    def step(self, case: Case, at: StepReport) -> None:
        """Keeps the losses and writes the page where it is due."""
        if self._view is not None:
            self._view.moved(at)
            self._write()

    def picture(self, case: Case, batches: Sequence[int], guesses: Sequence[Tensor]) -> None:
        """Keeps the guesses."""
        if self._view is not None:
            self._view.guesses.update(zip(batches, guesses, strict=True))

    def batch(self, case: Case, batch: int) -> None:
        """Counts the batch as done."""
        if self._view is not None:
            self._view.where.scored(batch)
            self._write()

    def finished(self, record: Record) -> None:
        """Writes the last state, which is not loaded again."""
        if self._view is not None:
            self._view.done = True
            self._write(force=True)

    def _write(self, *, force: bool = False) -> None:
        now = time.perf_counter()
        if self._view is not None and (force or now - self._written >= _INTERVAL):
            self._written = now
            atomic_write(self.folder / self._view.case.folder / LIVE, self._view.page().encode())


class LiveView:
    """What can be seen of a case by now, as HTML.

    Args:
        case: The case.
        batches: Number of client batches.
        finished: Which of them are finished already.
    """

    def __init__(self, case: Case, batches: int, finished: Sequence[int] = ()) -> None:
        self.case = case
        self.where = Position(case, defense_label(case), batches, finished)
        self.guesses: dict[int, Tensor] = {}
        """Client batch to `[batch, 3, height, width]` uint8."""
        self.done = False
        """Whether the case is finished, so that nothing changes any more."""
        self._losses: dict[str, list[float]] = {}

    def moved(self, at: StepReport) -> None:
        """Takes a report of the attack on a group of batches."""
        self.where.moved(at)
        for name, value in self.where.losses.items():
            self._losses.setdefault(name, []).append(value)

    def page(self) -> str:
        """The whole page."""
        refresh = "" if self.done else f'<meta http-equiv="refresh" content="{_INTERVAL:g}">'
        return (
            f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">{refresh}<title>privbench: {self._title}</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
            f"<h1>{self._title}</h1>{self.body()}</body></html>\n"
        )

    def body(self) -> str:
        """What stands below the title: how far, the guesses, the losses."""
        where = self.where
        state = "finished: comparison.png has the pictures" if self.done else f"{where.place}, {where.time_text}"
        pictures = "".join(
            f'<figure><img alt="reconstruction of image {number + 1} so far" src="{_uri(image)}">'
            f"<figcaption>image {number + 1}</figcaption></figure>"
            for number, image in enumerate(image for _, guess in sorted(self.guesses.items()) for image in guess)
        )
        drawn = "".join(_loss(name, values) for name, values in self._losses.items())
        return (
            f'<p>{html.escape(state)}</p><progress value="{where.fraction:.4f}" aria-label="share done"></progress>'
            f"<p>{html.escape(where.phase)}</p>{pictures}{drawn}"
        )

    @property
    def _title(self) -> str:
        return html.escape(f"{self.where.label}: {self.case.attack.name}, {self.case.threat_model.adversary} adversary")


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
