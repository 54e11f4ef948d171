"""What a careful client could notice of a model before it computes anything: one number in [0, 1], from the weights alone.

Two simple tests: a linear layer whose rows are all alike (imprint), and a classifier whose classes differ by orders of
magnitude (fishing). A server that knows the tests can evade them.
"""

import torch
from torch import nn

__all__ = ["suspicion"]

_ROWS = 8


def suspicion(model: nn.Module) -> float:
    """The larger of both tests.

    Args:
        model: As it was sent.

    Returns:
        0 for nothing odd, 1 for a layer of one repeated row or a class without a single weight.
    """
    found = [0.0]
    for name, value in model.named_parameters():
        if value.dim() == 2 and len(value) >= _ROWS and not name.endswith("token"):
            rows = value.detach().double()
            whole = float(rows.square().sum())
            if whole > 0:
                found.append(float(torch.linalg.matrix_norm(rows, 2).square()) / whole)
    return min(max([*found, _lopsided(model)]), 1.0)


def _lopsided(model: nn.Module) -> float:
    """One less the shortest row of the last linear layer relative to the median of all others, and to the longest."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features >= 2]
    if not layers:
        return 0.0
    norms = layers[-1].weight.detach().double().norm(dim=1)
    longest = float(norms.max())
    return 1.0 if longest == 0 else 1 - float(norms.min()) / longest
