"""What a position embedding says of positions: the study of MJP (Ren et al., CVPR 2023), a linear regression in five folds.

It needs scikit-learn (extra `utility`).
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from privbench.core import UserError

__all__ = ["POSITION_FOLDS", "pairwise_position_error", "position_errors"]

POSITION_FOLDS = 5
"""Folds of the regression; a table of fewer than twice as many rows is not asked."""


def position_errors(
    rows: NDArray[np.float64], grid: tuple[int, int], *, seed: int, along: Literal["grid", "sequence"] = "grid"
) -> NDArray[np.float64]:
    """How far a linear regression from a position row to its place is off, each row predicted by the folds that lack it.

    Args:
        rows: `[patches, width]`, row by row of the grid, at least ten.
        grid: Rows and columns of patches.
        seed: Of the folds.
        along: What a place is: row and column (`grid`, their 2-D study), or the number in the sequence (their 1-D study).

    Returns:
        `[patches]`, the mean absolute error over the coordinates, in patches.

    Raises:
        UserError: scikit-learn is not installed.
    """
    return _regression_errors(rows, _places(grid, along), seed)


def pairwise_position_error(
    rows: NDArray[np.float64], grid: tuple[int, int], *, seed: int, along: Literal["grid", "sequence"] = "grid"
) -> float:
    """How far a linear regression from the difference of two position rows to their distance is off (their relative study).

    Args:
        rows: `[patches, width]`, row by row of the grid, at least ten.
        grid: Rows and columns of patches.
        seed: Of the folds, and of which rows make a pair: as many pairs as rows, each row first in one and second in one.
        along: As in `position_errors`; of the grid, the distances in rows and in columns.

    Returns:
        The mean absolute error over pairs and coordinates, in patches.

    Raises:
        UserError: scikit-learn is not installed.
    """
    random, places = np.random.default_rng(seed), _places(grid, along)
    first, second = random.permutation(len(rows)), random.permutation(len(rows))
    return float(_regression_errors(rows[first] - rows[second], np.abs(places[first] - places[second]), seed).mean())


def _places(grid: tuple[int, int], along: Literal["grid", "sequence"]) -> NDArray[np.float64]:
    """`[patches, coordinates]`."""
    if along == "sequence":
        return np.arange(grid[0] * grid[1], dtype=np.float64)[:, None]
    return np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float64)


def _regression_errors(given: NDArray[np.float64], wanted: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    try:
        from sklearn.linear_model import LinearRegression
        from sklearn.model_selection import KFold, cross_val_predict
    except ImportError as error:
        raise UserError(f"the study of positions needs scikit-learn ({error}); pip install 'privbench[utility]'") from None
    folds = KFold(POSITION_FOLDS, shuffle=True, random_state=seed)
    predicted = cross_val_predict(LinearRegression(), given, wanted, cv=folds)
    # The last bits of a product vary with where its arrays lie in memory.
    errors: NDArray[np.float64] = np.round(np.abs(predicted - wanted).mean(axis=1), 9)
    return errors
