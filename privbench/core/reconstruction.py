"""What an attack returns, and the channel through which it reports and saves its progress."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from privbench.core.choices import InferredChoices

__all__ = ["Failure", "Progress", "Reconstruction"]


@dataclass(frozen=True)
class Reconstruction:
    """The attacker's guess.

    Attributes:
        images: `[batch, 3, height, width]` in [0, 1].
        labels: `[batch]` int64, known or recovered; None where the attack needs no labels.
        losses: The final value of each objective term, by name, as the attacker saw it.
        steps: Optimisation steps taken, restarts included; 0 for a closed form.
        trials: Independent trials run side by side.
        flags: Reliability remarks, such as `labels-guessed`.
        inferred: What the attacker believes of the client's mask and orders without having been told. Scored where the client
            chose one.
    """

    images: Tensor
    labels: Tensor | None = None
    losses: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    trials: int = 1
    flags: tuple[str, ...] = ()
    inferred: InferredChoices = field(default_factory=InferredChoices)


@dataclass(frozen=True)
class Failure:
    """No guess: one observation of a group could not be attacked, the others are not touched by it.

    Attributes:
        reason: Why, in one line.
    """

    reason: str


class Progress:
    """How a long attack talks to whoever runs it; the defaults do nothing, so an attack may always call it."""

    def report(self, step: int, total: int, phase: str, *losses: Mapping[str, float]) -> None:
        """Tells where the attack stands: `step` of `total` done, in `phase` of its schedule.

        `losses` is one mapping, or one for each observation of a group that is attacked together.
        """

    def picture(self, step: int, *images: Tensor) -> None:
        """Shows how far the guess is after `step` steps: `[batch, 3, height, width]` in [0, 1] for each observation.

        It is kept and scored once the attack is over; nothing of the score comes back.
        """

    def note(self, message: str) -> None:
        """Tells something that the user should know, in one line."""

    def save(self, state: Mapping[str, Any]) -> None:
        """Keeps a checkpoint (tensors, numbers, strings and containers of them) if the caller wants one now."""

    def restore(self) -> Mapping[str, Any] | None:
        """The last checkpoint of this very attack on these very observations, or None."""
        return None
