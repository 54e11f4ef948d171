"""Optimisers as data: what an attack declares; the step (Adam) and the host's loop (L-BFGS) carry it out."""

from dataclasses import dataclass, replace

from privbench.inversion.schedule import Scaled, Schedule

__all__ = ["LBFGS", "Adam"]


@dataclass(frozen=True)
class Adam:
    """Adam, taken inside the step, many victims at once.

    Attributes:
        learning_rate: In units of the variable (pixels in [0, 1]), over time.
        first_moment: Decay rate of the mean of the gradient.
        second_moment: Decay rate of the mean of its square.
        signed: Whether only the sign of each pixel's gradient counts (Inverting Gradients, Geiping et al., NeurIPS 2020).
    """

    learning_rate: Schedule
    first_moment: float = 0.9
    second_moment: float = 0.999
    signed: bool = False

    def slower(self, factor: float) -> "Adam":
        """The same with a learning rate multiplied by `factor`."""
        return self if factor == 1 else replace(self, learning_rate=Scaled(self.learning_rate, factor))


@dataclass(frozen=True)
class LBFGS:
    """L-BFGS without line search as in `torch.optim.LBFGS`, whose defaults these are; one victim and one trial at a time.

    Attributes:
        learning_rate: Length of a step relative to the quasi-Newton one.
        evaluations: Iterations within one step.
        history: Curvature pairs kept.
    """

    learning_rate: float = 1.0
    evaluations: int = 20
    history: int = 100
