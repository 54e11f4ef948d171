"""Small nonlinear least-squares problems, solved from many starts side by side."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["solved_from"]

_TINY = 1e-14


def solved_from(problem: Callable[[Tensor], tuple[Tensor, Tensor]], starts: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Levenberg-Marquardt from every start.

    Args:
        problem: From `[starts, unknowns]` to errors `[starts, equations]` and derivatives `[starts, equations, unknowns]`.
        starts: `[starts, unknowns]`, float64.
        steps: Steps of each.

    Returns:
        `[starts, unknowns]`, and the squared errors there `[starts]`.
    """
    current, damping = starts, torch.full_like(starts[:, 0], 1e-1)
    missed, jacobian = problem(current)
    cost = missed.square().sum(dim=1)
    for _ in range(steps):
        normal = jacobian.mT @ jacobian
        diagonal = torch.diag_embed(damping[:, None] * normal.diagonal(dim1=1, dim2=2) + _TINY)
        there = current - torch.linalg.solve(normal + diagonal, jacobian.mT @ missed[..., None])[..., 0]
        missed_there, jacobian_there = problem(there)
        cost_there = missed_there.square().sum(dim=1)
        better = cost_there < cost
        current = torch.where(better[:, None], there, current)
        missed = torch.where(better[:, None], missed_there, missed)
        jacobian = torch.where(better[:, None, None], jacobian_there, jacobian)
        cost = torch.where(better, cost_there, cost)
        damping = torch.where(better, damping / 4, damping * 4).clamp(1e-12, 1e8)
    return current, cost
