"""Records with other scores, whose summaries follow from them."""

import math
from collections.abc import Sequence

from privbench.core import Interval, Record

__all__ = ["scored"]


def scored(record: Record, metric: str, values: Sequence[float]) -> Record:
    """A record of so many images with these scores; metrics that had other images are left out of its summaries."""
    images = tuple(
        image.model_copy(update={"scores": {**image.scores, metric: value}})
        for image, value in zip(record.images, values, strict=False)
    )
    kept = {name: one for name, one in record.summary.items() if one.n == len(images)}
    saved = {name: one for name, one in record.summary_saved.items() if one.n == len(images)}
    if not values:
        return record.model_copy(update={"images": (), "summary": {}, "summary_saved": {}})
    interval = Interval(mean=math.fsum(values) / len(values), low=min(values), high=max(values), n=len(values))
    return record.model_copy(update={"images": images, "summary": {**kept, metric: interval}, "summary_saved": saved})
