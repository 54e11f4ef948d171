"""What an adversary believes to happen between an image and the update: the value that a defense's three adversaries return."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from privbench.core.choices import InferredChoices
from privbench.core.model_input import ModelInput

__all__ = ["AttackerView", "Estimate", "GradientTransform", "InputTransform", "ScrambledPixels", "Undo"]

InputTransform = Callable[[ModelInput, Mapping[str, Tensor]], ModelInput]
"""What a client is taken to do to its batch: `(batch, known) -> batch`, differentiable in the images, and a function of its
arguments alone, so that several clients can be simulated in one pass."""

Undo = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""The way back: `(fed, known) -> images`, both `[batch, 3, height, width]` in [0, 1]."""

GradientTransform = Callable[[Mapping[str, Tensor], Mapping[str, Tensor], Mapping[str, Tensor]], dict[str, Tensor]]
"""What an adversary does to one candidate's gradient before it is compared: `(simulated, observed, known) -> sent`.

Gradients are by parameter name, `[*shape]`, of the parameters that an attack matches, which need not be all; `known` is as in
`AttackerView`. Differentiable in the simulated gradients (straight through where the true derivative is zero), and a function
of its arguments alone without control flow that depends on values.
"""

Estimate = Callable[[Iterable[str]], Mapping[str, Tensor]]
"""From names of parameters to what an adversary takes their gradients to have been before they were sent, of those of them
that sending changed in a way that it can partly undo. Made when an attack asks for it, because it may take seconds."""


def _as_sent(_names: Iterable[str]) -> Mapping[str, Tensor]:
    return {}


@dataclass(frozen=True)
class ScrambledPixels:
    """That the client permuted the pixels inside patches, in all channels alike, in an order that the adversary does not know.

    Attributes:
        per: One permutation for all patches of a batch, or one for each place of the patch grid.
    """

    per: Literal["batch", "patch"]


@dataclass(frozen=True)
class AttackerView:
    """How an attacker's simulation of the client differs from the plain forward pass.

    Attributes:
        transform_input: Applied to candidate images and `known` before the simulated forward pass; None: fed as they are.
        known: What the adversary was told or has inferred of the client's random choices, by name as in `ProtectedInput`.
        remarks: What the reader of a score should know about this view, such as `mask-inferred`; nothing is decided by them.
        movable: `[patches]` bool, the places whose patches the client may have permuted among themselves in an order that the
            adversary knows of and does not know; None where there are none. An attack may find the order.
        inferred: What the adversary found out before any attack about the client's mask or orders, without being told.
        scrambled: How pixels inside patches were permuted, as far as the adversary knows; None where they were not. An attack
            may find the permutation.
        undo: From images as the client fed them back to its own; None: `transform_input` is undone by optimisation.
        transform_gradient: Applied to a simulated gradient before it is compared with the observed one; None: as it is.
        transform_gradient_inside: Stands for `transform_gradient` where a later part of a composition changes what this one
            sent, so that it cannot look at what was observed entry by entry; None: `transform_gradient` itself.
        entries_are_exact: Whether the adversary takes single entries of the observed gradient at their word; not where it knows
            them to be noisy, rounded or set to zero. Attacks that read something off an entry look here.
        expected: The adversary's estimate of the gradient behind the observed one, which attacks take in its place. Entries of
            an estimate are not to be taken at their word either.
    """

    transform_input: InputTransform | None = None
    known: Mapping[str, Tensor] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    movable: Tensor | None = None
    inferred: InferredChoices = field(default_factory=InferredChoices)
    scrambled: ScrambledPixels | None = None
    undo: Undo | None = None
    transform_gradient: GradientTransform | None = None
    transform_gradient_inside: GradientTransform | None = None
    entries_are_exact: bool = True
    expected: Estimate = _as_sent

    def fed(self, batch: ModelInput, known: Mapping[str, Tensor] | None = None) -> ModelInput:
        """What the simulated client's model is fed.

        Args:
            batch: Candidates.
            known: Stands in for `known`, where several clients are simulated at once.
        """
        if self.transform_input is None:
            return batch
        return self.transform_input(batch, self.known if known is None else known)

    def flags(self, found: InferredChoices) -> tuple[str, ...]:
        """The remarks, and what became of the orders that this adversary knows of and was not told.

        Args:
            found: What the attack stated in the end.
        """
        orders = []
        if self.movable is not None and self.movable.sum() > 1:
            orders.append("order-not-inferred" if found.order is None else "order-inferred")
        if self.scrambled is not None:
            orders.append("pixels-not-inferred" if found.pixel_order is None else "pixels-inferred")
        return (*self.remarks, *orders)
