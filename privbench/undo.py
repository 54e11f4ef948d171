"""From what a client fed its model back to the client's own images, as far as an adversary simulates the change.

Closed forms recover what the model was fed. A defense may say how that is undone (`AttackerView.undo`). Where it does not, the
declared `transform_input` is inverted: exactly where it moves pixels and changes none, else by least squares over the images.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from privbench.core import AttackerView, ModelInput

__all__ = ["Undone", "explains_input", "undone", "undone_in_any_order"]

_ITERATIONS = 400
_SAME = 0.5 / 255
"""Root mean square of pixels below which two batches look the same with 8 bits."""
_CLOSE = 0.02
"""The same, below which a batch counts as taken back: what an attack recovers is never exact."""
_MOST_IN_ANY_ORDER = 4
"""Images of a batch all of whose orders are tried: 24 of them."""
_EXACT_NUMBERS = 2**24
"""Whole numbers up to this are exact in float32."""


@dataclass(frozen=True)
class Undone:
    """A batch, taken back.

    Attributes:
        images: `[batch, 3, height, width]` in [0, 1].
        misfit: Root mean square of the pixels by which the simulated client feeds from them something else than was given.
    """

    images: Tensor
    misfit: float

    @property
    def complete(self) -> bool:
        """Whether that is next to nothing. If not, the transform makes no such batch, or the optimisation did not find it."""
        return self.misfit < _CLOSE


def undone(view: AttackerView, fed: Tensor) -> Undone:
    """Takes a batch back through what an adversary believes the client did to it.

    Args:
        view: What the adversary believes.
        fed: `[batch, 3, height, width]`, in [0, 1] but for errors of an attack.
    """
    if view.transform_input is None:
        return Undone(fed, 0.0)
    if view.undo is not None:
        images = view.undo(fed, view.known)
    else:
        moved = _moved_back(view, fed)
        images = _least_squares(view, fed) if moved is None else moved
    return Undone(images, _differ(_transformed(view, images), fed))


def undone_in_any_order(view: AttackerView, fed: Tensor) -> Undone:
    """The same of images that an attack recovered in no order, where each is undone by another rule, as mixtures are.

    Of all orders that one is right which images in [0, 1] explain best. Batches of more than 4 are taken as they come.

    Args:
        view: What the adversary believes.
        fed: `[batch, 3, height, width]`.
    """
    if len(fed) > _MOST_IN_ANY_ORDER or view.fed(ModelInput(fed)).label_mixing is None:
        return undone(view, fed)
    every = (undone(view, fed[list(order)]) for order in permutations(range(len(fed))))
    return min(every, key=lambda one: one.misfit)


def explains_input(view: AttackerView, images: Tensor, fed: Tensor, patch_size: int | None) -> bool:
    """Whether what an adversary believes of the client's input can lead to the private images: a check for scoring alone.

    It does where the simulated client, given the private images, feeds what the client fed, or where the same patches stand in
    another order, which scores that do not depend on the order see through, or where the adversary knows that pixels inside
    patches were permuted and looks for their order. Else whatever it recovers is not the private image, and its score is no
    more than a lower bound of what the update gives away.

    Args:
        view: What the adversary believes.
        images: `[batch, 3, height, width]`, the private images.
        fed: The same shape, what the client fed.
        patch_size: Side of a patch in pixels; None where the model has none.
    """
    if view.scrambled is not None or _differ(_transformed(view, images), fed) < _SAME:
        return True
    return patch_size is not None and torch.equal(_sorted_patches(images, patch_size), _sorted_patches(fed, patch_size))


def _transformed(view: AttackerView, images: Tensor) -> Tensor:
    with torch.no_grad():
        return view.fed(ModelInput(images)).images


def _differ(one: Tensor, other: Tensor) -> float:
    return float((one - other).double().square().mean().sqrt())


def _sorted_patches(images: Tensor, size: int) -> Tensor:
    """`[batch, patches, pixels]`, the patches of each image in an order that depends on their content alone."""
    patches = torch.nn.functional.unfold(images, size, stride=size).mT
    rows = [row[torch.from_numpy(_lexicographic(row))] for row in patches]
    return torch.stack(rows)


def _lexicographic(rows: Tensor) -> "np.ndarray[tuple[int], np.dtype[np.intp]]":
    return np.lexsort(rows.double().cpu().numpy().T)


def _moved_back(view: AttackerView, fed: Tensor) -> Tensor | None:
    """The inverse of a transform that moves pixels and changes none; None where it does something else.

    A numbered batch goes through it: whatever comes out says where each pixel came from.
    """
    if fed.numel() > _EXACT_NUMBERS:
        return None
    # A power of two keeps every number exact, and in [0, 1].
    scale = 2.0 ** (fed.numel() - 1).bit_length()
    numbers = torch.arange(fed.numel(), device=fed.device)
    order = (_transformed(view, (numbers.float() / scale).view_as(fed)).flatten() * scale).round().long()
    if not torch.equal(order.sort().values, numbers):
        return None
    images = torch.empty_like(fed).flatten()
    images[order] = fed.flatten()
    return images.view_as(fed)


def _least_squares(view: AttackerView, fed: Tensor) -> Tensor:
    """The images in [0, 1] from which the simulated client's input comes nearest to `fed`, from `fed` on."""
    # Flat, because the solver takes no gradient of another memory layout.
    pixels = fed.detach().clamp(0, 1).flatten().clone().requires_grad_(True)
    solver = torch.optim.LBFGS(
        [pixels], max_iter=_ITERATIONS, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def misfit() -> Tensor:
        solver.zero_grad()
        loss: Tensor = (view.fed(ModelInput(pixels.view_as(fed))).images - fed).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        solver.step(misfit)  # type: ignore[no-untyped-call]
    return pixels.detach().clamp(0, 1).view_as(fed)
