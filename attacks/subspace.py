"""Subspace attack: row spaces of the first block's gradients against the known patch and position embedding.

The rows of that gradient span the normalised tokens, masked, shuffled or not. Each position asks of its patch to lie in that
space: a linear system per position, without position gradient, label or iteration. What masked patches (MJP) leave open, the
gradients of the position rows decide (`token_gradients`), and the first MLP's activations tell masked patches apart. Without
position embedding all patches are found like the masked ones, in no order. Ours; derivation and limits in attacks/README.md.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from enum import Enum
from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from privbench.adversary import Simulation, simulate, with_pixels_in_place
from privbench.closed_form.activations import Activations, Settling
from privbench.closed_form.embedding import PatchEmbedding, require_tokens, token_gradients
from privbench.closed_form.first_block import FirstBlock
from privbench.closed_form.moments import Moments, later_moments
from privbench.closed_form.smoothness import smooth_precision
from privbench.closed_form.tokens import Tokens
from privbench.closed_form.unplaced import (
    FITS,
    MEMBER,
    PLAUSIBLE,
    SAME,
    different_tokens,
    distinct,
    require_unplaced,
    tokens_of_moments,
    unplaced,
)
from privbench.core import Attack, ModelInput, Observation, Progress, Reconstruction, UserError
from privbench.core.patches import from_patches, to_patches
from privbench.jigsaw import reassembled
from privbench.models import Victim

__all__ = ["Subspace"]

_STARTS = 2
"""Random starts in a round for each token that is missing, one for each masked patch at most."""
_NO_FIT = "row-space-does-not-fit"
_NOT_ALL = "patches-not-all-found"


class _Masked(Enum):
    """How far the patches that share a row were told apart; the value is the flag that says so."""

    COMMON = "masked-patches-not-separated"
    PARTLY = "masked-patches-partly-separated"
    SEPARATED = "masked-order-not-inferred"
    ORDERED = "masked-order-inferred"


class Subspace(Attack):
    """Patches from the row space of the first block's gradient, masks from what does not fit."""

    name: ClassVar[str] = "subspace"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "standard": {},
        "without-search": {"search": 0},
        "row-space-only": {"position_gradients": False, "search": 0},
    }

    position_gradients: bool = True
    """Whether the gradients of the position rows decide what patches that share a row (MJP) leave open; otherwise a smoothness
    prior alone decides it."""
    search: Annotated[int, Field(ge=0)] = 2
    """Rounds of starts from which masked patches, or all without positions, are searched by the first MLP's activations; 0: the
    moments alone."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1.5e-2
    """Relative residual above which a position does not fit its own row and counts as masked."""

    def require(self, observation: Observation) -> None:
        """Refuses batches, and models whose equations are fewer than a patch's unknowns."""
        model = simulate(observation).model
        if model.parts().position is None:
            first = FirstBlock.of(model)
            names = [name for name in model.state_dict() if name.startswith("network.blocks.0.")]
            observation.require_parameters([first.qkv_name, *names], self.name)
            require_unplaced(observation, model, self.name)
            if not self.search:
                raise UserError("attack subspace finds patches without positions by its search; choose --set attack.search=2")
            return
        require_tokens(observation, model, self.name)
        observation.require_parameters([FirstBlock.of(model).qkv_name], self.name)
        embedding = PatchEmbedding.of(model)
        width, pixels = embedding.weight.shape
        equations = width - embedding.token_count
        if equations < pixels + 1:
            raise UserError(
                f"attack subspace needs as many equations as a patch has unknowns, given {equations} (width {width} less "
                f"{width - equations} tokens) for {pixels + 1} in {observation.model.name}; choose --attack closed-form"
            )

    def run(self, observation: Observation, *, generator: torch.Generator, progress: Progress) -> Reconstruction:
        """Solves with all gradients up to the first block, or by the row space alone where the update is partial (`solved`)."""
        model = simulate(observation).model
        first = [name for name, _ in model.named_parameters() if ".blocks." not in name and ".head." not in name]
        first += [name for name, _ in model.named_parameters() if ".blocks.0." in name]
        if model.parts().position is None or all(name in observation.update for name in first if ".norm." not in name):
            return self.solved(observation, generator=generator)
        found = self.model_copy(update={"position_gradients": False, "search": 0}).solved(observation, generator=generator)
        return replace(found, flags=(*found.flags, "row-space-only"))

    def solved(self, observation: Observation, *, generator: torch.Generator) -> Reconstruction:
        """Solves each position, finds the mask, then resolves what the mask left open and the order in which patches stand.

        Masked patches come in no order; an adversary that is not `unaware` of the shuffle puts them, and all others that the
        client may have moved, in the order in which their borders fit.
        """
        simulation = simulate(observation)
        if simulation.model.parts().position is None:
            return self._without_positions(observation, simulation, generator)
        model, embedding, block = simulation.model, PatchEmbedding.of(simulation.model), FirstBlock.of(simulation.model)
        tokens = Tokens(embedding, block, observation.gradients[block.qkv_name], self.tolerance)
        precision = smooth_precision(embedding.patch_size).to(observation.device)
        masked, separation, found = tokens.masked, None, 0
        if self.position_gradients and tokens.ambiguity.shape[1]:
            gradients = token_gradients(model, observation)
            patches = tokens.with_token_gradients(gradients, observation.gradients[block.output_name], precision)
        else:
            patches = tokens.likely(tokens.patches, precision)
        fits = not masked.any() or embedding.unknown is not None
        if masked.any() and fits:
            patches[masked], separation = self._masked(observation, model, tokens, patches[~masked], masked, precision)
            wanted = self.position_gradients and self.search > 0
            searched = Activations.of(model, observation, tokens.space.rank) if wanted else None
            if searched:
                search = _Search(observation, model, tokens, searched, masked, precision)
                patches, found = search.patches(patches, self.search, generator)
                # Those not found stay what the moments made of them.
                if found == int(masked.sum()):
                    separation = _Masked.SEPARATED
                elif found and separation is _Masked.COMMON:
                    separation = _Masked.PARTLY
        images, undone = simulation.undone(embedding.images(patches))
        movable = _movable(simulation, masked, embedding, separation)
        fitting = tokens.residuals[~masked] if not masked.all() else tokens.residuals
        losses = {
            "residual": float(fitting.max()),
            "masked": float(masked.sum()),
            "found": float(found),
            "rank": float(tokens.space.rank),
            "gap": tokens.space.gap,
            "ambiguity": float(tokens.ambiguity.shape[1]),
        }
        view = simulation.view
        inferred = view.inferred if view.inferred.mask is None else replace(view.inferred, mask=masked)
        if movable.any():
            images, assembly = reassembled(images, embedding.patch_size, movable, generator=generator)
            losses["order_cost"] = assembly.cost
            if separation is _Masked.SEPARATED:
                separation = _Masked.ORDERED
            if view.movable is not None:
                inferred = replace(inferred, order=assembly.undone)
        result = Reconstruction(images, losses=losses, inferred=inferred)
        if not movable.any() and not masked.any():
            result = with_pixels_in_place(result, simulation, generator=generator)
        told = () if separation is None else (separation.value,)
        flags = (*view.flags(result.inferred), *(() if fits else (_NO_FIT,)), *told, *undone)
        return replace(result, flags=flags)

    def _without_positions(
        self, observation: Observation, simulation: Simulation, generator: torch.Generator
    ) -> Reconstruction:
        """All patches, in the order in which their borders fit: no adversary has another."""
        model, embedding = simulation.model, PatchEmbedding.of(simulation.model)
        found = unplaced(model, observation, self.search, generator)
        # In what order a client may have put its patches beforehand has left no trace, so that nothing is stated of it.
        view, flags = replace(simulation.view, movable=None), list[str]()
        images, undone = simulation.undone(embedding.images(found.patches))
        losses = {
            "residual": found.residual,
            "found": float(found.found),
            "missing": float(found.missing),
            "rank": float(found.rank),
        }
        if not found.found:
            flags.append(_NO_FIT)
        else:
            everywhere = torch.ones(len(found.patches), dtype=torch.bool, device=observation.device)
            images, assembly = reassembled(images, embedding.patch_size, everywhere, generator=generator)
            losses["order_cost"] = assembly.cost
            flags.append("order-inferred")
            if not found.settled:
                flags.append(_NOT_ALL)
        return Reconstruction(
            images, losses=losses, flags=(*view.flags(view.inferred), *flags, *undone), inferred=view.inferred
        )

    def _masked(
        self,
        observation: Observation,
        model: Victim,
        tokens: Tokens,
        patches: Tensor,
        masked: Tensor,
        precision: Tensor,
    ) -> tuple[Tensor, _Masked]:
        """Patches of the masked positions, one after another or one for all, and which of both."""
        common = tokens.shared_row_patch(precision)
        moments = Moments.of(model, observation, tokens.space.rank) if self.position_gradients else None
        if moments is None:
            return common, _Masked.COMMON
        embedding = PatchEmbedding.of(model)
        known = patches @ embedding.weight.T + embedding.bias + embedding.positions[~masked]
        others, both = torch.cat([embedding.prefix, known]), (moments.first, moments.second)
        found = tokens.shared_row_patches(moments.basis, both, others, common)
        if found is None or len(found) != int(masked.sum()):
            return common, _Masked.COMMON
        plausible = embedding.excess(found) < PLAUSIBLE
        return torch.where(plausible[:, None], found, common), _Masked.SEPARATED if plausible.all() else _Masked.PARTLY


class _Search:
    """Masked patches by the activations of the first MLP: starts from a smooth prior, each polished and tested by itself."""

    def __init__(
        self,
        observation: Observation,
        model: Victim,
        tokens: Tokens,
        activations: Activations,
        masked: Tensor,
        precision: Tensor,
    ) -> None:
        self.observation, self.model, self.activations, self.masked = observation, model, activations, masked
        self.embedding = PatchEmbedding.of(model)
        self.common, self.free = tokens.shared_row_patch(precision), tokens.ambiguity
        self.spread = self.free @ self.free.T @ torch.linalg.cholesky(torch.linalg.inv(precision))

    def patches(self, start: Tensor, rounds: int, generator: torch.Generator) -> tuple[Tensor, int]:
        """All patches `[patches, pixels]`, and how many of the masked ones are found; those not found are left as they were.

        Args:
            start: `[patches, pixels]`, all patches as far as they are known.
            rounds: Rounds of random starts at most, where neither what is known nor the moments lead to all tokens.
            generator: Draws the starts.
        """
        number, candidate = int(self.masked.sum()), start.clone()
        found = self._tokens(candidate)
        every = found[:0]
        if len(found) < number:
            basis, number_of_tokens = self.activations.basis, self.embedding.token_count
            moments = later_moments(self.model, self.observation, basis, basis.shape[1])
            every = tokens_of_moments(self.activations, moments)
            found = distinct(torch.cat([found, self._fitting(every)]))
            # Patches that are alike are one token, and then there are no more to be found.
            rounds = rounds if len(every) < different_tokens(self.observation, number_of_tokens) else 0
        for _ in range(rounds):
            if len(found) >= number:
                break
            noise = torch.randn(number, start.shape[1], generator=generator, dtype=torch.float64).to(start)
            candidate[self.masked] = self.common + noise @ self.spread.T
            found = distinct(torch.cat([found, self._tokens(candidate, _STARTS * (number - len(found)))]))
        found, resolved = found[:number], start[self.masked]
        if not len(found):
            return start, 0
        reached = self._places(found)[0]
        plausible = self.embedding.excess(reached) < PLAUSIBLE
        reached = self.embedding.clipped(reached)
        pairs = torch.as_tensor(linear_sum_assignment(torch.cdist(reached, resolved).cpu().numpy())[1]).to(reached.device)
        if len(found) == number:
            resolved[pairs] = reached
            directions = torch.empty_like(found)
            directions[pairs] = found
            settled = self._settled(_filled(start, self.masked, resolved), directions, every)
            if self._agrees(settled, directions):
                return settled, number
            resolved = start[self.masked]
        resolved[pairs[plausible]] = reached[plausible]
        return _filled(start, self.masked, resolved), int(plausible.sum())

    def _settled(self, patches: Tensor, directions: Tensor, every: Tensor) -> Tensor:
        """All patches, brought to agree with the directions of all tokens: given for the masked, their own for the others.

        Args:
            patches: `[patches, pixels]` to start from.
            directions: `[masked, rank]`.
            every: `[tokens, rank]`, of all tokens as far as the moments gave them; they correct those of unmasked patches.
        """
        embedding, activations = self.embedding, self.activations
        start = activations.directions(self.model, embedding.images(patches), self.masked)
        everywhere, missed = activations.polished(start)
        everywhere[self.masked] = directions
        sure = missed < MEMBER
        for place in (~self.masked).nonzero().flatten().tolist() if len(every) else []:
            known = embedding.bias + embedding.positions[place]
            if sure[place] and activations.places(everywhere[place, None], known, embedding.weight)[1] < FITS:
                continue
            solutions, misfits, _ = activations.places(every, known, embedding.weight)
            best = misfits.argmin()
            sure[place] = misfits[best] < FITS
            if sure[place]:
                everywhere[place], patches[place] = every[best], embedding.clipped(solutions[best, None])[0]
        rows = torch.where(self.masked[:, None], cast(Tensor, embedding.unknown), embedding.positions) + embedding.bias
        problem = Settling(embedding.weight, rows, self.masked, self.masked | sure, everywhere)
        return activations.settled(deepcopy(self.model).double(), embedding.pixels, patches, problem)

    def _agrees(self, settled: Tensor, directions: Tensor) -> bool:
        """Whether the fixed point was reached: patches are plausible, and masked tokens have the directions given."""
        if not torch.isfinite(settled).all() or (self.embedding.excess(settled) > PLAUSIBLE).any():
            return False
        reached = self.activations.directions(self.model, self.embedding.images(settled), self.masked)[self.masked]
        return bool(((reached - directions).norm(dim=1) < SAME).all())

    def _tokens(self, patches: Tensor, most: int | None = None) -> Tensor:
        """Directions `[found, rank]` of masked patches' tokens that the first `most` masked places lead to, each once."""
        directions = self.activations.directions(self.model, self.embedding.images(patches), self.masked)[self.masked]
        directions, missed = self.activations.polished(directions[:most])
        return distinct(self._fitting(directions[missed < MEMBER]))

    def _fitting(self, directions: Tensor) -> Tensor:
        """Those of tokens with the unknown row."""
        return directions[self._places(directions)[1] < FITS] if len(directions) else directions

    def _places(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        """The patches of tokens with the unknown row, and how far each misses its equations."""
        embedding = self.embedding
        known = (self.common @ embedding.weight.T + embedding.bias)[0] + cast(Tensor, embedding.unknown)
        places, misfit, _ = self.activations.places(directions, known, embedding.weight @ self.free)
        return self.common + places @ self.free.T, misfit


def _filled(patches: Tensor, masked: Tensor, values: Tensor) -> Tensor:
    filled = patches.clone()
    filled[masked] = values
    return filled


def _movable(simulation: Simulation, masked: Tensor, embedding: PatchEmbedding, separation: _Masked | None) -> Tensor:
    """`[patches]` bool: which places of the candidate hold patches in an order that is still to be found."""
    view = simulation.view
    movable = torch.zeros_like(masked) if view.movable is None else view.movable.clone()
    shown = masked[:, None].expand(-1, embedding.weight.shape[1]).to(embedding.weight)
    places = from_patches(
        shown.reshape(1, -1, 3, embedding.patch_size, embedding.patch_size), *[embedding.image_size] * 2
    ).float()
    knows_of_masks = view.fed(ModelInput(places)).unknown_positions is not None
    if not knows_of_masks or separation is _Masked.COMMON:
        # One patch stands for all masked ones: there is nothing to order, and it fits no border.
        return movable & ~masked
    if separation in {_Masked.SEPARATED, _Masked.PARTLY}:
        # The oracle knows where the client put each masked patch, but not which of the recovered ones it is.
        moved, _ = simulation.undone(places)
        movable |= to_patches(moved, embedding.patch_size)[0, :, 0, 0, 0] > 0
    return movable
