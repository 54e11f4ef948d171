"""Closed form for every vision transformer with learned position rows and a batch of one: one linear system, no label.

The gradient of a position row is the gradient δ of its token, and the patch embedding's is `∂W = Σ δ xᵀ` over the patches x.
Known Δ and ∂W leave `Δᵀ X = ∂W`. APRIL (Lu et al., CVPR 2022) solves a like system, but asks more of the attention. Who
knows the gradient to be noisy, rounded or pruned, or patches to share a row, looks for the most likely image instead (ours,
`inversion/likely.py`).
"""

import math
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from privbench.adversary import Simulation, concluded, inferred_choices, simulate
from privbench.core import Attack, Observation, Progress, Reconstruction
from privbench.core.patches import to_patches
from privbench.inversion.algebra import (
    PatchEmbedding,
    candidate_images,
    least_squares,
    require_tokens,
    sum_of_shared_row,
    token_gradients,
)
from privbench.inversion.likely import likely_patches

__all__ = ["ClosedForm"]

_CUTOFF = 1e-7
"""Rounding of float32: singular values of Δ below this share of the largest carry nothing."""

_SPARE = 0.5
"""Equations beyond the unmasked patches, for each masked one, below which nothing is known of what the masked ones add."""


class ClosedForm(Attack):
    """Patches by least squares from the gradients of position rows and patch embedding."""

    name: ClassVar[str] = "closed-form"

    def require(self, observation: Observation) -> None:
        """Refuses batches and models without a learned position embedding."""
        require_tokens(observation, simulate(observation).model, self.name)

    def run(self, observation: Observation, *, generator: torch.Generator, progress: Progress) -> Reconstruction:
        """Solves for all patches at once.

        Patches that share one position row (MJP) have only the sum of their gradients. Whoever ignores the defense takes one
        common patch for all of them, and what they differ by spoils the others too (flag `masked-patches-not-separated`).
        Whoever knows it weighs the smoothness of images against what the masked patches may have added to the equations, and
        fills their places by what surrounds them (flag `masked-patches-filled-in`).

        Where the client is known to shuffle (`aware`) the patches are put in the order in which their borders fit. Where it is
        known not to send exact entries, the smoothness of images is weighed against the noise that the equations show; with as
        many patches as the width they show none.
        """
        simulation = simulate(observation)
        model, embedding = simulation.model, PatchEmbedding.of(simulation.model)
        gradients = token_gradients(model, observation)
        gradient = observation.gradients[model.parts().patch_weight].double().flatten(1)
        flags = list(simulation.view.flags)
        masked = (gradients == 0).all(dim=1) & model.has_unknown_position
        own, in_place = int((~masked).sum()), False
        spare, hidden = gradients.shape[1] - own, len(masked) - own
        # The shared row's gradient is that of a single masked patch.
        if observation.threat_model.adversary != "unaware" and own and hidden > 1 and spare >= _SPARE * hidden:
            in_place, exact = _stands_as_it_is(simulation, observation, masked), simulation.view.exact
            patches = likely_patches(gradients, gradient, embedding.patch_size, whole=in_place, exact=exact)
            flags.append("masked-patches-filled-in")
            misfit = gradients.T @ patches - gradient
        else:
            if masked.any():
                gradients = torch.cat([gradients[~masked], sum_of_shared_row(model, observation)])
                flags.append("masked-patches-not-separated")
            if len(gradients) > gradients.shape[1]:
                flags.append("more-patches-than-width")
            if simulation.view.exact or len(gradients) >= gradients.shape[1]:
                solution = least_squares(gradients.T, gradient, cutoff=_CUTOFF)
            else:
                whole = not masked.any() and _stands_as_it_is(simulation, observation, masked)
                solution = likely_patches(gradients, gradient, embedding.patch_size, whole=whole)
            patches = solution[-1:].repeat(len(masked), 1)
            patches[~masked] = solution[:own]
            misfit = gradients.T @ solution - gradient
        images, undone = embedding.images(patches), tuple[str, ...]()
        if not in_place:  # what a known order moves is masked, and filled in where it is
            images, undone = candidate_images(model, simulation.logits, images)
        losses = {"misfit": float(misfit.norm() / gradient.norm())}
        result = Reconstruction(images, losses=losses, flags=(*flags, *undone))
        if masked.any():
            return replace(result, inferred=inferred_choices(simulation.view))
        return concluded(result, simulation, generator=generator)


def _stands_as_it_is(simulation: Simulation, observation: Observation, masked: Tensor) -> bool:
    """Whether the client's model is fed the image itself but for masked patches, as far as the adversary knows."""
    movable, size = simulation.view.movable, simulation.model.patch_size
    if size is None or (movable is not None and bool((movable & ~masked).any())):
        return False
    numbers = torch.arange(math.prod(observation.image_shape), device=observation.device)
    image: Tensor = numbers.float().reshape(1, *observation.image_shape)
    before, after = (
        to_patches(one, size)[0, ~masked] for one in (image, candidate_images(simulation.model, simulation.logits, image)[0])
    )
    return torch.equal(before, after)
