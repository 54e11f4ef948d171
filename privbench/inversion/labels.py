"""Labels from the gradient of the last layer.

With cross-entropy the gradient of the classifier's bias is the mean over the batch of (probability - one-hot), so the classes
present are those whose entries are low; for a batch of one the true class is the only negative entry.
"""

import torch
from torch import Tensor

from privbench.core import Observation, UserError

__all__ = ["recover_labels"]


def recover_labels(observation: Observation, weight: str) -> Tensor:
    """The labels of a batch without repeats, as in GradInversion (Yin et al., CVPR 2021).

    The `batch_size` classes with the lowest evidence are taken. Evidence is the bias gradient where there is one (exact for a
    batch of one), else, as published, the lowest entry of the class's row in the weight gradient (exact for a batch of one with
    non-negative features). The order within a batch cannot be known, and repeated labels are missed.

    Args:
        observation: What the attacker sees.
        weight: Name of the classifier's weight `[classes, width]`; its bias is used where the gradient holds one.

    Returns:
        `[batch]` int64, ascending.

    Raises:
        UserError: The batch is larger than the number of classes, so that labels must repeat.
    """
    gradient = observation.gradients[weight]
    if observation.batch_size > len(gradient):
        raise UserError(
            f"{observation.batch_size} images but {len(gradient)} classes: labels repeat and cannot be recovered from the "
            "last layer; use --labels known or a smaller batch"
        )
    bias = observation.gradients.get(weight.removesuffix("weight") + "bias")
    # Normalised features have both signs, so the weight's columns are less telling than the bias, which is the sum itself.
    evidence = bias if bias is not None else gradient.min(dim=1).values
    return torch.sort(torch.argsort(evidence)[: observation.batch_size]).values
