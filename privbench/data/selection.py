"""Which images of a set are attacked, and in which order they form batches."""

from collections.abc import Sequence

from privbench.core.errors import UserError
from privbench.data.base import ImageSet

__all__ = ["select"]


def select(
    image_set: ImageSet, *, limit: int | None = None, indices: Sequence[int] | None = None, batch_size: int = 1
) -> tuple[int, ...]:
    """The positions to attack: the given ones or all, the first `limit` of them, in whole batches.

    Args:
        image_set: Where from.
        limit: How many; None: all.
        indices: Which positions; None: from the first one on.
        batch_size: Images per client update.

    Returns:
        Positions, each once, a multiple of `batch_size` of them.

    Raises:
        UserError: A number does not fit the data or another one; the message says which would.
    """
    data = f"{image_set.name} ({image_set.split})"
    for option, number in (("--limit", limit), ("--batch-size", batch_size)):
        if number is not None and number < 1:
            raise UserError(f"{option} {number} is not accepted: it must be at least 1")
    available = tuple(range(len(image_set))) if indices is None else tuple(indices)
    _require_positions(image_set, available)
    where = f"{data} has {len(available)} images" if indices is None else f"{len(available)} indices of {data} are given"
    if batch_size > len(available):
        raise UserError(f"--batch-size {batch_size} is larger than the data: {where}; use {len(available)} or less")
    if limit is not None and limit > len(available):
        raise UserError(f"--limit {limit} is larger than the data: {where}; use {len(available)} or less")
    chosen = available[:limit]
    if len(chosen) % batch_size:
        raise UserError(
            f"{len(chosen)} images do not fill batches of {batch_size}; use {_fitting(len(chosen), batch_size, len(available))}"
        )
    return chosen


def _require_positions(image_set: ImageSet, indices: tuple[int, ...]) -> None:
    if not indices:
        raise UserError(f"no indices are given; accepted: one or more of 0 to {len(image_set) - 1}")
    seen: set[int] = set()
    for index in indices:
        image_set.image_name(index)
        if index in seen:
            raise UserError(f"index {index} is given twice; give each image once")
        seen.add(index)


def _fitting(count: int, batch_size: int, available: int) -> str:
    below = count - count % batch_size
    fitting = [number for number in (below, below + batch_size) if 0 < number <= available]
    return " or ".join(f"--limit {number}" for number in fitting)
