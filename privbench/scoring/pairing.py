"""Which reconstruction belongs to which original: decided once per batch, and the same for every metric.

A gradient is a sum over the batch, so an attack returns the images in any order. Letting each metric pick its own best match
would compare one original with several reconstructions.
"""

import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

from privbench.scoring.pixels import check_pair

__all__ = ["pair"]


def pair(reconstruction: Tensor, original: Tensor) -> Tensor:
    """The assignment with the least total squared error (Hungarian method).

    Args:
        reconstruction: `[batch, 3, height, width]` in [0, 1].
        original: The same shape and range.

    Returns:
        `[batch]` int64 on the CPU, a permutation: `reconstruction[result[i]]` is scored against `original[i]`.

    Raises:
        ValueError: Not two equal batches of images in [0, 1].
    """
    check_pair(reconstruction, original)
    rows = [images.detach().cpu().double().flatten(1).numpy() for images in (original, reconstruction)]
    return torch.as_tensor(linear_sum_assignment(cdist(rows[0], rows[1], "sqeuclidean"))[1], dtype=torch.int64)
