"""The steps one after another: plain ones until the derivative is near that at the true images, then sketched ones."""

from functools import partial

import torch
from torch import Tensor

from privbench.adversary import Simulation
from privbench.core import Observation, Progress
from privbench.core.patches import from_patches, to_patches
from privbench.refinement.sketch import normal_matrix, sketch
from privbench.refinement.step import Point, Variables, stepped
from privbench.refinement.update import Update, are_fed_as_they_are

__all__ = ["refined"]

_ITERATIONS = (40, *7 * (100,))
"""Of LSQR without a sketch, step by step: little is linear, so that many short steps lead further than few long ones."""
_LINEAR = 1e-4
"""Relative error of the update from which the derivative is near enough to that at the true images to be sketched."""
_BEFORE = 4
"""Steps without a sketch that are taken to come there."""
_SKETCHED = 25
"""Of LSQR in a step with a sketch."""
_DAMPINGS = (1e4, 1e3, 1e2, 1e1)
"""Of the steps with a sketch, one after another, in units of float32's rounding: the directions that hardly show come last."""
_TURNS = 3
"""Steps of one damping, at most."""
_GAIN = 0.9
"""Share of the error that a step must fall below for another one of the same damping."""
_DENSE = 8192
"""Pixels of a batch, three numbers each, up to which the derivative is sketched: a matrix of so many rows and columns."""
_WORK = 1e10
"""The same times the entries of the update: two images of 32 pixels and 1.4 million parameters are two minutes on one core."""
_NEAR = 1e-2
"""Relative error of the update up to which a step is worth taking; further off something else is wrong than a few patches."""
_ROUNDING = 5e-7
"""Relative error of an update in float32, but for its softmax: 5.0e-7 to 6.3e-7 of four pairs of photos."""
_EXACT = 2 * _ROUNDING
"""Relative error of the update at which nothing is left to do."""


def refined(
    simulation: Simulation, observation: Observation, fed: Tensor, labels: Tensor, spread: Tensor, progress: Progress
) -> Tensor:
    """Solves for all pixels of a batch, from images that are nearly right.

    Args:
        simulation: What the adversary believes of this client; where that moves or mixes images nothing is done.
        observation: What it saw.
        fed: `[images, 3, height, width]`.
        labels: `[images]` int64.
        spread: `[images, patches]`, about how far the pixels of each patch are off.
        progress: Is told of every step.

    Returns:
        Images that explain the update better, or the same ones.
    """
    size = simulation.model.patch_size
    if size is None or not are_fed_as_they_are(simulation, fed):
        return fed
    # Errors are small differences, for which float32 is too coarse; for the direction of a step it is enough.
    exact, coarse = (Update(simulation, observation, labels, dtype) for dtype in (torch.float64, torch.float32))
    now = Point.of(exact, fed.double())
    if not now.share < _NEAR:
        return fed
    units = from_patches(spread[..., None, None, None].expand_as(to_patches(fed, size)), *fed.shape[-2:]).double()
    is_sketched = fed.numel() <= _DENSE and fed.numel() * len(exact.observed) <= _WORK
    plain = _ITERATIONS[: _BEFORE if is_sketched else None]
    for number, iterations in enumerate(plain):
        if now.share < (_LINEAR if is_sketched else _EXACT):
            break
        progress.report(number, len(plain), "refinement", {"unexplained": now.share})
        before, now = now, stepped(exact, coarse, now, Variables(units), iterations)
        if now is before:
            break
    if is_sketched and now.share > _EXACT:
        normal = normal_matrix(sketch(coarse, now.fed, now.residual, partial(progress.report, phase="sketch")), units)
        for number, damping in enumerate(_DAMPINGS):
            variables = Variables.of(normal, units, damping * _ROUNDING * exact.total / len(exact.observed) ** 0.5)
            for turn in range(_TURNS):
                progress.report(_TURNS * number + turn, _TURNS * len(_DAMPINGS), "refinement", {"unexplained": now.share})
                before, now = now, stepped(exact, coarse, now, variables, _SKETCHED)
                if now.share > _GAIN * before.share:
                    break
    return fed if torch.equal(now.fed, fed.double()) else now.fed.clamp(0, 1).to(fed)
