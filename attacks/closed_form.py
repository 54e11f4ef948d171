"""Closed form for every vision transformer with learned position rows and a batch of one: one linear system, no label.

The gradient of a position row is the gradient δ of its token, and the patch embedding's is `∂W = Σ δ xᵀ` over the patches x.
Known Δ and ∂W leave `Δᵀ X = ∂W`. APRIL (Lu et al., CVPR 2022) solves a like system, but asks more of the attention. Where
patches outnumber the width, the system leaves directions open, and the most likely image decides them (ours,
`closed_form/map_estimate.py`). Who knows the gradient to be noisy, rounded or pruned, or patches to share a row, looks for the
most likely image too.
"""

import math
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from torch import Tensor

from privbench.adversary import Simulation, postprocess_reconstruction, simulate
from privbench.closed_form.embedding import PatchEmbedding, require_tokens, sum_of_shared_row, token_gradients
from privbench.closed_form.map_estimate import likely_patches, patches_beside_hidden
from privbench.closed_form.mlp_features import MLP_OUTPUT, MlpFeatures, complement_of_rows
from privbench.closed_form.row_space import least_squares
from privbench.closed_form.separation import separated
from privbench.core import Attack, ModelInput, Observation, Progress, Reconstruction
from privbench.core.patches import to_patches

__all__ = ["ClosedForm", "closed_form_start"]

_CUTOFF = 1e-7
"""Rounding of float32: singular values of Δ below this share of the largest carry nothing."""

_SPARE = 0.5
"""Equations beyond the unmasked patches, for each masked one, below which nothing is known of what the masked ones add."""


_DECISIVE = 2
"""Equations of each token by the features of the first MLP, for each of its coordinates, above which they are used."""


class ClosedForm(Attack):
    """Patches by least squares from the gradients of position rows and patch embedding."""

    name: ClassVar[str] = "closed-form"

    def require(self, observation: Observation) -> None:
        """Refuses batches and models without a learned position embedding."""
        model = simulate(observation).model
        require_tokens(observation, model, self.name)
        parts = model.parts()
        observation.require_parameters([cast(str, parts.position), parts.patch_weight], self.name)

    def run(self, observation: Observation, *, generator: torch.Generator, progress: Progress) -> Reconstruction:
        """Solves for all patches at once.

        Patches that share one position row (MJP) have only the sum of their gradients. Whoever ignores the defense takes one
        common patch for all of them, and what they differ by spoils the others too (flag `masked-patches-not-separated`).
        Whoever knows it weighs the smoothness of images against what the masked patches may have added to the equations, and
        fills their places by what surrounds them (flag `masked-patches-filled-in`). Where the first MLP's gradient was sent
        exactly, its features tell what the masked patches add (flag `masked-shares-removed`).

        Where the client is known to shuffle (`aware`) the patches are put in the order in which their borders fit. Where it is
        known not to send exact entries, the smoothness of images is weighed against the noise that the equations show. With as
        many patches as the width that is done for everyone, because the equations alone leave the image open
        (flag `more-patches-than-width`).
        """
        equations = _Equations.of(observation)
        solution = equations.filled_in(progress) if equations.can_fill_in() else equations.with_a_common_patch()
        simulation = equations.simulation
        images, undone = PatchEmbedding.of(simulation.model).images(solution.patches), tuple[str, ...]()
        if not solution.in_place:
            images, undone = simulation.undone(images)
        view = simulation.view
        result = Reconstruction(images, losses={"misfit": solution.misfit}, flags=(*solution.flags, *undone))
        if equations.masked.any():
            return replace(result, inferred=view.inferred, flags=(*view.flags(view.inferred), *result.flags))
        return postprocess_reconstruction(result, simulation, generator=generator)


def closed_form_start(observation: Observation, trials: int, generator: torch.Generator) -> Tensor:
    """Where an attack by matching may start: what this one finds, with a little noise in each trial.

    Args:
        observation: What the attacker saw.
        trials: How many starts.
        generator: Of the noise.

    Returns:
        `[trials, 1, 3, height, width]` in [0, 1].
    """
    solved = ClosedForm()(observation, generator=generator).images
    noise = 0.01 * torch.randn(trials, *solved.shape, generator=generator)
    return (solved + noise.to(solved)).clamp(0, 1)


@dataclass(frozen=True)
class _Solution:
    """Patches of the image that the client fed.

    Attributes:
        patches: `[patches, pixels]`, normalised.
        misfit: Relative residual of the equations.
        flags: What the reader should know of them.
        in_place: Whether each stands where it was in the private image.
    """

    patches: Tensor
    misfit: float
    flags: tuple[str, ...]
    in_place: bool


@dataclass(frozen=True)
class _Equations:
    """Δᵀ X = ∂W of one observation.

    Attributes:
        simulation: What the adversary believes of the client.
        observation: What it saw, or takes to be behind that (`AttackerView.expected`).
        gradients: Δ, `[patches, width]`; a masked patch has a row of zeros.
        target: ∂W, `[width, pixels]`.
        masked: `[patches]` bool.
        entries_are_exact: Whether the adversary takes both sides at their word.
    """

    simulation: Simulation
    observation: Observation
    gradients: Tensor
    target: Tensor
    masked: Tensor
    entries_are_exact: bool

    @classmethod
    def of(cls, observation: Observation) -> "_Equations":
        simulation = simulate(observation)
        parts = simulation.model.parts()
        expected = simulation.view.expected((cast(str, parts.position), parts.patch_weight))
        observation = observation.with_gradients({**observation.gradients, **expected})
        gradients = token_gradients(simulation.model, observation)
        target = observation.gradients[parts.patch_weight].double().flatten(1)
        masked = (gradients == 0).all(dim=1) & simulation.model.has_unknown_position
        return cls(
            simulation,
            observation,
            gradients,
            target,
            masked,
            entries_are_exact=simulation.view.entries_are_exact and not expected,
        )

    def can_fill_in(self) -> bool:
        """Whether several patches are masked, not all, the adversary knows, and equations are left to see what they add."""
        # The shared row's gradient is that of a single masked patch.
        hidden, (patches, width) = int(self.masked.sum()), self.gradients.shape
        own = patches - hidden
        if not (own > 0 and hidden > 1 and width - own >= _SPARE * hidden):
            return False
        some = self.gradients.new_zeros(1, *self.observation.image_shape).float()
        return self.simulation.view.fed(ModelInput(some)).unknown_positions is not None

    def filled_in(self, progress: Progress) -> _Solution:
        """Masked patches are hidden; what surrounds them fills their places."""
        # What a known order moves is masked, and filled in where it is.
        in_place = _stands_as_it_is(self.simulation, self.observation, self.masked)
        solve = patches_beside_hidden if self.entries_are_exact else likely_patches
        patches = solve(self.gradients, self.target, self._patch_size, whole=in_place)
        flags, cleaner = ["masked-patches-filled-in"], self._separated(patches, progress) if in_place else None
        if cleaner is not None:
            patches = cleaner
            flags.append("masked-shares-removed")
        return _Solution(patches, self._misfit(self.gradients, patches), tuple(flags), in_place)

    def _separated(self, start: Tensor, progress: Progress) -> Tensor | None:
        """The patches without what the masked ones add to them; None where that cannot be told."""
        sent = self.observation.gradients.get(MLP_OUTPUT)
        if sent is None or not self.entries_are_exact or self.observation.kind != "gradient":
            return None
        model, outside = deepcopy(self.simulation.model).cpu(), complement_of_rows(sent.cpu())
        features = MlpFeatures.of(model)
        if features is None or outside.shape[1] <= _DECISIVE * self.gradients.shape[1]:
            return None
        known = (self.gradients.cpu(), self.target.cpu(), start.cpu())
        found = separated(PatchEmbedding.of(model), features, outside, *known, progress)
        return None if found is None else found.to(start)

    def with_a_common_patch(self) -> _Solution:
        """One patch stands for all masked ones."""
        gradients, flags = self.gradients, list[str]()
        if self.masked.any():
            gradients = torch.cat([gradients[~self.masked], sum_of_shared_row(self.simulation.model, self.observation)])
            flags.append("masked-patches-not-separated")
        if len(gradients) >= gradients.shape[1]:
            flags.append("more-patches-than-width")
        if self.entries_are_exact and len(gradients) < gradients.shape[1]:
            solution = least_squares(gradients.T, self.target, cutoff=_CUTOFF)
        else:
            whole = not self.masked.any() and _stands_as_it_is(self.simulation, self.observation, self.masked)
            solution = likely_patches(gradients, self.target, self._patch_size, whole=whole)
        patches = solution[-1:].repeat(len(self.masked), 1)
        patches[~self.masked] = solution[: int((~self.masked).sum())]
        return _Solution(patches, self._misfit(gradients, solution), tuple(flags), in_place=False)

    @property
    def _patch_size(self) -> int:
        return PatchEmbedding.of(self.simulation.model).patch_size

    def _misfit(self, gradients: Tensor, patches: Tensor) -> float:
        return float((gradients.T @ patches - self.target).norm() / self.target.norm())


def _stands_as_it_is(simulation: Simulation, observation: Observation, masked: Tensor) -> bool:
    """Whether the client's model is fed the image itself but for masked patches, as far as the adversary knows."""
    movable, size = simulation.view.movable, simulation.model.patch_size
    if size is None or (movable is not None and bool((movable & ~masked).any())):
        return False
    count = math.prod(observation.image_shape)
    image = (torch.arange(count, device=observation.device) / count).reshape(1, *observation.image_shape)
    before, after = (to_patches(one, size)[0, ~masked] for one in (image, simulation.view.fed(ModelInput(image)).images))
    return torch.equal(before, after)
