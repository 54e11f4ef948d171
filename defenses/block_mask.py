"""BEiT's block-wise mask (Bao et al., ICLR 2022, arXiv 2106.08254), by which MJP and its baseline choose patches."""

import math

import torch
from torch import Tensor

__all__ = ["block_mask", "can_mask", "scaled_area"]

_PUBLISHED_GRID = 14 * 14
_PUBLISHED_AREA = (8, 75)
_ATTEMPTS = 10
_LOG_ASPECT = math.log(0.3)


def block_mask(rows: int, columns: int, mask_ratio: float, generator: torch.Generator, *, area: tuple[int, int]) -> Tensor:
    """BEiT's block-wise mask as MJP uses it: rectangles until `int(mask_ratio * rows * columns)` patches are covered.

    Args:
        rows: Rows of the patch grid.
        columns: Columns of the patch grid.
        mask_ratio: Share of patches to cover, in [0, 1].
        generator: Source of the rectangles.
        area: Smallest and largest area of a rectangle in patches; 8 and 75 in the published code.

    Returns:
        `[rows * columns]` bool. Never more patches than the target, and fewer (none at all for small ratios) where ten
        tries in a row find no rectangle that fits, as in the published code.
    """
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    target = int(mask_ratio * rows * columns)
    while (covered := int(mask.sum())) < target:
        rest = min(target - covered, area[1])
        if not any(_add_rectangle(mask, area[0], rest, generator) for _ in range(_ATTEMPTS)):
            break
    return mask.flatten()


def _add_rectangle(mask: Tensor, smallest: int, rest: int, generator: torch.Generator) -> bool:
    """Tries one rectangle; keeps it if it covers something new, but not more than `rest` patches."""
    uniform = torch.rand(2, generator=generator, dtype=torch.float64)
    size = smallest + float(uniform[0]) * (rest - smallest)
    aspect = math.exp(_LOG_ASPECT - 2 * _LOG_ASPECT * float(uniform[1]))
    height, width = round(math.sqrt(size * aspect)), round(math.sqrt(size / aspect))
    if height >= mask.shape[0] or width >= mask.shape[1]:
        return False
    top = int(torch.randint(mask.shape[0] - height + 1, (), generator=generator))
    left = int(torch.randint(mask.shape[1] - width + 1, (), generator=generator))
    block = mask[top : top + height, left : left + width]
    if not 0 < int((~block).sum()) <= rest:
        return False
    block[:] = True
    return True


def can_mask(rows: int, columns: int, mask_ratio: float, *, area: tuple[int, int]) -> bool:
    """Whether `block_mask` can ever cover a patch: whether some rectangle that it can draw fits an empty grid.

    A rectangle of h x w patches is drawn where an area s and an aspect a of their ranges have sqrt(s a) round to h and
    sqrt(s / a) to w. For one s some a does where each lower bound of log a is below each upper one, which bounds log s.
    """
    target = int(mask_ratio * rows * columns)
    rest = min(target, area[1])
    if rest < 1:
        return False
    least, most = sorted((math.log(area[0]), math.log(rest)))
    for height in range(1, rows):
        for width in range(1, min(columns, rest // height + 1)):
            low, high = ([math.log(side + half) for side in (height, width)] for half in (-0.5, 0.5))
            lower = max(least, sum(low), 2 * max(low) + _LOG_ASPECT)
            upper = min(most, sum(high), 2 * min(high) - _LOG_ASPECT)
            if lower <= upper:
                return True
    return False


def scaled_area(rows: int, columns: int, mask_ratio: float, smallest: int | None, largest: int | None) -> tuple[int, int]:
    """Smallest and largest rectangle in patches: as given, else the published 8 and 75 of 196 patches, scaled to the grid.

    With rectangles of 8 patches or more the mask of a small grid, or of a small ratio, is often empty; so one that is not given
    is no larger than what there is to mask.
    """
    share = rows * columns / _PUBLISHED_GRID
    low, high = (max(1, round(one * share)) for one in _PUBLISHED_AREA)
    low = max(1, min(low, int(mask_ratio * rows * columns))) if smallest is None else smallest
    high = high if largest is None else largest
    # What is given goes before what is scaled.
    return (low, max(low, high)) if largest is None else (min(low, high), high)
