"""Masked patches (MJP) one by one, by the activations of the first MLP; what is known of the others is brought to agree.

Starts come from the moments of the LayerNorms and from a smooth prior; each is polished and tested by itself. Ours; derivation
in docs/research/subspace.md.
"""

from copy import deepcopy
from typing import cast

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from privbench.closed_form.activations import Activations, Settling
from privbench.closed_form.embedding import PatchEmbedding
from privbench.closed_form.moments import later_moments
from privbench.closed_form.tokens import Tokens
from privbench.closed_form.without_positions import FITS, MEMBER, PLAUSIBLE, SAME, different_tokens, distinct, tokens_of_moments
from privbench.core import Observation
from privbench.models import Victim

__all__ = ["MaskedSearch"]

_STARTS = 2
"""Random starts in a round for each token that is missing, one for each masked patch at most."""


class MaskedSearch:
    """Masked patches by the activations of the first MLP.

    Args:
        observation: What the attacker sees.
        model: The simulated client's.
        tokens: The tokens as far as the row space fixes them, the mask among it.
        activations: The test of single tokens.
        precision: `[pixels, pixels]`, the smooth prior within a patch.
    """

    def __init__(
        self,
        observation: Observation,
        model: Victim,
        tokens: Tokens,
        activations: Activations,
        precision: Tensor,
    ) -> None:
        self.observation, self.model, self.activations, self.masked = observation, model, activations, tokens.masked
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
