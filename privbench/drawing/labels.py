"""Small labels beside the points of a plot: of a few places around each point the one that hides least."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from numpy.typing import NDArray

__all__ = ["label_points", "least_hidden"]

Boxes = NDArray[np.float64]
"""`[n, 4]`: left, bottom, right, top."""

_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
_DISTANCES = (1.0, 1.8, 2.8)
_ROUNDS = 4
_OUTSIDE = 20.0
"""What lies outside the frame counts so many times as much as what lies on something else."""


def least_hidden(anchors: NDArray[np.float64], sizes: NDArray[np.float64], obstacles: Boxes, frame: Boxes, gap: float) -> Boxes:
    """Where labels go so that they cover each other and what is drawn as little as possible.

    Each label in turn takes the best of 24 places around its point, nearest first, given where the others are; after a few
    rounds nothing changes any more, or it stops. The same input gives the same places.

    Args:
        anchors: `[n, 2]`, the points.
        sizes: `[n, 2]`, width and height of the labels.
        obstacles: `[m, 4]`, boxes that should stay free: markers, parts of lines and intervals.
        frame: `[1, 4]`, which the labels should not leave.
        gap: Distance of the nearest places from the point.

    Returns:
        `[n, 4]`, the boxes of the labels.
    """
    places = np.stack([_around(anchor, size, gap) for anchor, size in zip(anchors, sizes, strict=True)])
    fixed = np.stack([_covered(boxes, obstacles) + _OUTSIDE * _sticking_out(boxes, frame) for boxes in places])
    # A place further away has to be worth it.
    fixed += 0.02 * np.arange(places.shape[1]) * gap**2
    chosen = fixed.argmin(axis=1)
    for _ in range(_ROUNDS):
        before = chosen.copy()
        for label in range(len(anchors)):
            others = np.delete(places[np.arange(len(anchors)), chosen], label, axis=0)
            # Two labels on each other cannot be read, one on a line can.
            chosen[label] = int((fixed[label] + 5 * _covered(places[label], others)).argmin())
        if (before == chosen).all():
            break
    return np.asarray(places[np.arange(len(anchors)), chosen])


def label_points(
    axes: Axes, anchors: NDArray[np.float64], texts: Sequence[str], colours: Sequence[str], *, size: float
) -> None:
    """Writes a label beside each point; call it last, when all else of the figure is drawn.

    Markers, error bars and lines with a label or a line style of the axes are what the labels keep away from.

    Args:
        axes: Where the points are.
        anchors: `[n, 2]`, the points as drawn, in data coordinates.
        texts: The labels.
        colours: Of the labels.
        size: Of the font, in points.
    """
    if not texts:
        return
    figure = axes.get_figure(root=True)
    if figure is None:
        raise RuntimeError("the axes belong to no figure any more")
    figure.draw_without_rendering()
    point = figure.dpi / 72
    obstacles = _drawn(axes, point)
    labels = []
    for (x, y), text, colour in zip(anchors, texts, colours, strict=True):
        label = axes.annotate(
            text, (x, y), (0, 0), textcoords="offset points", ha="center", va="center", fontsize=size, color=colour,
            parse_math=False, annotation_clip=False, zorder=5,
        )  # fmt: skip
        label.set_in_layout(False)
        labels.append(label)
    places = axes.transData.transform(anchors)
    boxes = least_hidden(places, np.array([_size(label) for label in labels]), obstacles, _box(axes), gap=4 * point)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    for label, offset in zip(labels, (middles - places) / point, strict=True):
        label.set_position((float(offset[0]), float(offset[1])))


def _size(label: Annotation) -> tuple[float, float]:
    box = label.get_window_extent()
    # Letters reach nearly as far as the box in width; in height there is air for accents.
    return box.width, 0.8 * box.height


def _box(axes: Axes) -> Boxes:
    box = axes.get_window_extent()
    return np.array([[box.x0, box.y0, box.x1, box.y1]])


def _drawn(axes: Axes, point: float) -> Boxes:
    """What labels keep away from, in pixels: markers, and intervals and lines in short pieces."""
    found: list[NDArray[np.float64]] = []
    for line in axes.lines:
        path = line.get_transform().transform(np.column_stack([np.asarray(line.get_xdata()), np.asarray(line.get_ydata())]))
        if line.get_marker() not in {"None", "|", "_", None}:
            found.append(_boxes(path, point * line.get_markersize() / 2))
        if line.get_linestyle() != "None":
            found.append(_pieces(path, point))
    segments = [segment for collection in axes.collections for segment in collection.get_paths()]
    found += [_pieces(axes.transData.transform(np.asarray(segment.vertices)), point) for segment in segments]
    return np.concatenate(found) if found else np.zeros((0, 4))


def _pieces(path: NDArray[np.float64], point: float) -> Boxes:
    """A line as many small boxes, three points apart."""
    pieces = [np.zeros((0, 2))]
    for start, end in pairwise(path):
        if np.isfinite([start, end]).all():
            count = 2 + int(np.hypot(*(end - start)) / (3 * point))
            pieces.append(np.linspace(start, end, min(count, 400)))
    return _boxes(np.concatenate(pieces), 0.8 * point)


def _boxes(middles: NDArray[np.float64], half: float) -> Boxes:
    middles = middles[np.isfinite(middles).all(axis=1)]
    return np.concatenate([middles - half, middles + half], axis=1)


def _around(anchor: NDArray[np.float64], size: NDArray[np.float64], gap: float) -> Boxes:
    places = []
    for distance in _DISTANCES:
        for direction in _DIRECTIONS:
            straight = 0 in direction
            middle = anchor + np.array(direction) * (size / 2 + gap * distance * (1 if straight else 0.6))
            places.append([*(middle - size / 2), *(middle + size / 2)])
    return np.array(places)


def _covered(boxes: Boxes, others: Boxes) -> NDArray[np.float64]:
    """The area of each box that lies on others; what two of them cover counts twice."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.asarray(np.clip(high - low, 0, None).prod(axis=2).sum(axis=1))


def _sticking_out(boxes: Boxes, frame: Boxes) -> NDArray[np.float64]:
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - _covered(boxes, frame))
