"""Scores of another tool's pictures, by the protocol of the suite: paired once, float and 8-bit told apart, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from privbench.core import Interval, UserError
from privbench.data.pictures import Pictures, pictures_of, read_pictures
from privbench.scoring import MetricSuite, score_batch, summarise
from privbench.store.files import atomic_write

__all__ = ["Scores", "as_pictures", "score_pictures"]


@dataclass(frozen=True)
class Scores:
    """Scores of pictures, one row per original.

    Attributes:
        pixels: `float` or `8-bit`: what the reconstructions hold.
        names: The originals' names.
        matched: For each original, the name of the reconstruction that it was compared with.
        scores: For each original, metric name to value.
        summary: Metric name to mean and interval.
        unavailable: Metric name to the reason why it was not computed.
        remarks: What else must be known, a line each: files that are no pictures and were left out.
    """

    pixels: str
    names: tuple[str, ...]
    matched: tuple[str, ...]
    scores: tuple[Mapping[str, float], ...]
    summary: Mapping[str, Interval]
    unavailable: Mapping[str, str]
    remarks: tuple[str, ...] = ()

    def table(self) -> pd.DataFrame:
        """One row per original: its name, the reconstruction, what pixels that holds, and the scores."""
        return pd.DataFrame(
            [
                {"original": name, "reconstruction": other, "pixels": self.pixels, **scores}
                for name, other, scores in zip(self.names, self.matched, self.scores, strict=True)
            ]
        )

    def save(self, path: Path | str) -> Path:
        """Writes the table as CSV, with exact numbers.

        Raises:
            UserError: The file cannot be written.
        """
        atomic_write(Path(path), self.table().to_csv(index=False, lineterminator="\n").encode())
        return Path(path)

    def _repr_html_(self) -> str:
        """The table and the means, for a notebook."""
        means = {name: [one.mean, one.low, one.high, one.n] for name, one in self.summary.items()}
        summary = pd.DataFrame(means, index=["mean", "95 % low", "95 % high", "n"])
        return f"{self.table().to_html(index=False)}{summary.to_html()}"


Match = Literal["name", "best"]
"""`name`: by file name, arrays by order; `best`: each to the original that it is nearest to, each original once."""


def score_pictures(
    truth: Pictures, found: Pictures, suite: MetricSuite, *, batch_size: int, seed: int, match: Match = "name"
) -> Scores:
    """Scores reconstructions against originals.

    Args:
        truth: The originals.
        found: The reconstructions: with the originals' names, or as many in their order.
        suite: What to measure.
        batch_size: So many originals in a row are paired with their reconstructions by assignment.
        seed: Of the bootstrap.
        match: Which reconstruction belongs to which original.

    Raises:
        UserError: Names, numbers or sizes do not match, or the pictures are too small for a metric.
    """
    remarks = tuple(dict.fromkeys(filter(None, (truth.left_out, found.left_out))))
    if match == "best":
        truth, found = _nearest(truth, found)
    images, names = _matched(truth, found)
    count = len(truth.names)
    if images.shape != truth.images.shape:
        raise UserError(
            f"reconstructions are {_size(images.shape)}, originals {_size(truth.images.shape)}; accepted: equal sizes"
        )
    if count % batch_size:
        raise UserError(f"{count} pictures do not fill batches of {batch_size}; choose a --batch-size that divides them")
    scores: list[Mapping[str, float]] = []
    matched: list[str] = []
    for start in range(0, count, batch_size):
        chosen = slice(start, start + batch_size)
        for scored in score_batch(images[chosen], truth.images[chosen], suite):
            scores.append(scored.scores)
            matched.append(names[start + scored.source])
    pixels = "8-bit" if found.eight_bit else "float"
    return Scores(pixels, truth.names, tuple(matched), tuple(scores), summarise(scores, seed), suite.unavailable, remarks)


def _nearest(truth: Pictures, found: Pictures) -> tuple[Pictures, Pictures]:
    """The originals and reconstructions of the assignment with the least squared error; what is left over is left out.

    Raises:
        UserError: The sizes differ.
    """
    if truth.images.shape[1:] != found.images.shape[1:]:
        raise UserError(
            f"reconstructions are {_size(found.images.shape)}, originals {_size(truth.images.shape)}; accepted: equal sizes"
        )
    errors = torch.cdist(truth.images.flatten(1).double(), found.images.flatten(1).double()).square()
    rows, columns = (chosen.tolist() for chosen in linear_sum_assignment(errors.numpy()))
    return _chosen(truth, rows), _chosen(found, columns)


def _chosen(pictures: Pictures, places: Sequence[int]) -> Pictures:
    names = tuple(pictures.names[place] for place in places)
    # From here on the order says what belongs together, whatever the names are.
    return replace(pictures, names=names, images=pictures.images[list(places)], named=False)


def _matched(truth: Pictures, found: Pictures) -> tuple[Tensor, tuple[str, ...]]:
    """The reconstructions in the order of the originals, and their names."""
    if truth.named and found.named:
        absent = [name for name in truth.names if name not in found.names]
        surplus = [name for name in found.names if name not in truth.names]
        if absent or surplus:
            what = f"no reconstruction is named {absent[0]}" if absent else f"no original is named {surplus[0]}"
            raise UserError(
                f"{what}; pictures of two folders are matched by file name: give both the same names, or --match best"
            )
        order = [found.names.index(name) for name in truth.names]
        return found.images[order], truth.names
    if len(truth.names) != len(found.names):
        raise UserError(
            f"{len(found.names)} reconstructions of {len(truth.names)} originals; accepted: one each, or --match best"
        )
    return found.images, found.names


def as_pictures(given: Path | str | Tensor) -> Pictures:
    """Pictures from wherever they are.

    Args:
        given: A folder, an image, an array file, or `[n, 3, height, width]` in [0, 1] (or uint8).

    Raises:
        UserError: They cannot be read, or are no pictures.
    """
    if isinstance(given, Tensor):
        return pictures_of(given)
    return read_pictures(Path(given))


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[-2]}x{shape[-1]}"
