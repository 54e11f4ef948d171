"""What a position embedding says of positions: the study of MJP (Ren et al., CVPR 2023), a linear regression in five folds.

It needs scikit-learn (extra `price`).
"""

import numpy as np
from numpy.typing import NDArray

from privbench.core import UserError

__all__ = ["POSITION_FOLDS", "position_errors"]

POSITION_FOLDS = 5
"""Folds of the regression; a table of fewer than twice as many rows is not asked."""


def position_errors(rows: NDArray[np.float64], grid: tuple[int, int], *, seed: int) -> NDArray[np.float64]:
    """How far a linear regression from a position row to its place is off, each row predicted by the folds that lack it.

    Args:
        rows: `[patches, width]`, row by row of the grid, at least ten.
        grid: Rows and columns of patches.
        seed: Of the folds.

    Returns:
        `[patches]`, the mean absolute error over the two coordinates, in patches.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LinearRegression
        from sklearn.model_selection import KFold, cross_val_predict
    except ImportError as error:
        raise UserError(f"the study of positions needs scikit-learn ({error}); pip install 'privbench[price]'") from None
    places = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float64)
    folds = KFold(POSITION_FOLDS, shuffle=True, random_state=seed)
    predicted = cross_val_predict(LinearRegression(), rows, places, cv=folds)
    # The last bits of a product vary with where its arrays lie in memory.
    errors: NDArray[np.float64] = np.round(np.abs(predicted - places).mean(axis=1), 9)
    return errors
