"""Several images from one update: searches find most tokens, the attention deals them to images and finds the rest.

Ours; derivation and limits in docs/research/token-search.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from privbench.closed_form.activations import Activations
from privbench.closed_form.embedding import PatchEmbedding
from privbench.closed_form.first_block import centred
from privbench.closed_form.moments import later_moments
from privbench.closed_form.without_positions import tokens_of_moments
from privbench.core import Observation
from privbench.models import Victim
from privbench.token_search.attention import FirstAttention
from privbench.token_search.found_tokens import FoundTokens, TokenSearch, with_tokens
from privbench.token_search.membership import clearer, exchanged, images_by, images_of, votes
from privbench.token_search.missing_tokens import missing_patches
from privbench.token_search.places import Places
from privbench.token_search.token_prior import TokenPrior, place_of_patches

__all__ = ["LACKING", "ROUNDING", "SAME", "BatchRecovery", "DealtTokens"]

LACKING = 0.15
"""Share of an image's patches that the attention is trusted to give alone."""
ROUNDING = 1e-5
"""Added to the share of its activations that a token misses, for its weight."""
_TIGHT = 1e-6
"""A step's share of the squared error at which the attention's patches are done."""
_STALLED = 2e-2
"""The same where the polish of the tokens goes further."""
SAME = 0.1
"""Distance of directions of length one below which the attention's patch is the one that a token shows."""
_SURE = 0.2
"""Share of the median vote below which it is left open whose a token is."""
_SWEEPS = 3
"""Passes in which stand-ins are carried on from neighbour to neighbour."""


@dataclass(frozen=True)
class DealtTokens:
    """The patches of a batch, image by image.

    Attributes:
        patches: `[images, patches, pixels]`, normalised; stand-ins where a token is missing.
        tokens: `[images, patches]` int64, which token found it is; -1 where it is missing.
        sure: `[found]`, by how many votes each token found stands with its image.
    """

    patches: Tensor
    tokens: Tensor
    sure: Tensor

    @classmethod
    def none(cls) -> "DealtTokens":
        """Of no token."""
        return cls(torch.zeros(0, 0, 0), torch.zeros(0, 0, dtype=torch.long), torch.zeros(0))


class BatchRecovery:
    """All that is read off one update and its model before the search, and the steps of the search.

    Args:
        model: The simulated client's.
        activations: The test of a token.
        masked: `[patches]` bool, patches with the unknown row.
        images: Number of images.
    """

    def __init__(self, model: Victim, activations: Activations, masked: Tensor, images: int) -> None:
        self.model, self.activations, self.masked, self.images = model, activations, masked, images
        self.embedding = PatchEmbedding.of(model)
        self.places = Places.of(self.embedding, activations, masked, images)
        self.place = place_of_patches(masked)
        self.attention = FirstAttention.of(model)
        self.each = (self.places.capacity // images).to(self.places.rows)
        beside = self._beside()
        own = nn.functional.one_hot(self.place, len(self.each)).bool()[:, self.each == 1].to(beside.dtype)
        self.neighbours = torch.zeros(len(self.each), len(self.each), dtype=torch.bool, device=masked.device)
        single = (self.each == 1).nonzero().flatten()
        self.neighbours[single[:, None], single] = (own.T @ beside @ own) > 0
        with torch.no_grad():
            prior = TokenPrior.of(FirstAttention.of(model, torch.float32), self.embedding, self.places, masked)
        self.search = TokenSearch(activations, self.places, prior, self.neighbours)

    @property
    def total(self) -> int:
        """Patch tokens of the batch."""
        return int(self.places.capacity.sum())

    def none(self) -> FoundTokens:
        """Before anything is found."""
        return FoundTokens.none(self.activations, self.embedding)

    def from_moments(self, observation: Observation) -> FoundTokens:
        """The tokens to which the moments of the LayerNorms lead, where the model is twice as wide as there are tokens.

        Args:
            observation: What the attacker sees.
        """
        width, rank = self.activations.basis.shape
        if 2 * rank > width:
            return self.none()
        prefix, pixels = len(self.embedding.prefix), self.embedding.weight.shape[1]
        before = min(self.total, pixels + len(self.places.rows)) + prefix
        moments = later_moments(self.model, observation, self.activations.basis, before)
        return self.with_candidates(self.none(), tokens_of_moments(self.activations, moments))

    def with_candidates(self, found: FoundTokens, candidates: Tensor, *, attended: bool = False) -> FoundTokens:
        """What candidates `[candidates, rank]` add, polished and tested; `attended` where they come from the attention."""
        return with_tokens(found, candidates, self.activations, self.places, self.embedding, attended=attended)

    def with_pictures(self, found: FoundTokens, pictures: Tensor) -> FoundTokens:
        """What the tokens of pictures `[images, 3, height, width]` add that may be those of the batch."""
        directions = [self.activations.directions(self.model, one[None], self.masked) for one in pictures.clamp(0, 1)]
        return self.with_candidates(found, torch.cat(directions).to(found.directions), attended=True)

    def searched(self, found: FoundTokens, starts: int, round_: int, generator: torch.Generator) -> FoundTokens:
        """One round of searches at all places that lack tokens."""
        return self.with_candidates(found, self.search.candidates(found, starts, round_ % 3 == 0, generator))

    def dealt(self, found: FoundTokens) -> DealtTokens:
        """Deals the tokens found to images; neighbours of the same image stand in for those missing."""
        lacking = found.missing(self.places).nonzero().flatten()
        there = torch.cat([found.places, lacking])
        tokens = self._tokens(torch.cat([found.patches, self._around(found, lacking)]), there)
        others = self._tokens(self._around(found, found.places), found.places)
        cast = votes(self.attention, tokens, found.outputs, there, self.each, others, self.images)
        clear = clearer(self.activations.missed(found.directions), found.places, self.each) if self.images == 2 else None
        image, sure = images_of(cast, found.places, self.each, self.images), None
        if clear is not None:
            image, sure = images_by(clear, cast, found.places, self.each, image)
        if not len(lacking):
            image = exchanged(self.attention, tokens, found.outputs, found.places, image)
        member = nn.functional.one_hot(image, self.images).to(cast.agreement)
        sure = (member * (cast.agreement @ member)).sum(dim=1) if sure is None else sure
        numbers = torch.full((self.images, len(self.place)), -1, device=self.place.device)
        patches = found.patches.new_zeros(self.images, len(self.place), found.patches.shape[1])
        for one in range(self.images):
            for place in range(len(self.each)):
                mine = ((image == one) & (found.places == place)).nonzero().flatten()
                numbers[one, (self.place == place).nonzero().flatten()[: len(mine)]] = mine
        known = numbers >= 0
        patches[known] = found.patches[numbers[known]]
        return DealtTokens(self._filled(patches, known), numbers, sure)

    def completed(self, found: FoundTokens) -> tuple[FoundTokens, DealtTokens]:
        """The missing patches of each image from its attention, as far as they pass the test of a token.

        Returns:
            What is found with them, and the patches as dealt before, those missing as the attention has them.
        """
        dealt = self.dealt(found)
        patches, candidates = dealt.patches.clone(), []
        # Where a place lacks a token the votes can err on the others; once few do, the attention is asked for all of them.
        lacks = (found.missing(self.places) > 0) & (self.each == 1)
        lacks &= lacks.sum() <= LACKING * len(self.place)
        sure = torch.cat([dealt.sure > _SURE * dealt.sure.median(), torch.zeros_like(dealt.tokens[0, :1], dtype=torch.bool)])
        for one in range(self.images):
            # A token in the wrong image spoils all equations, one that is left out costs a few; -1 is the last entry.
            known = sure[dealt.tokens[one]] & ~lacks[self.place]
            if known.all() or not known.any():
                continue
            solved = self.attended(found, dealt.tokens[one], known, patches[one])
            patches[one, ~known] = self.embedding.clipped(solved)
            with torch.no_grad():
                after = self.attention.after(self._tokens(patches[one], self.place))
            candidates.append(centred(after[~known]) @ self.activations.basis)
        dealt = self._taken_back(found, DealtTokens(patches, dealt.tokens, dealt.sure))
        dealt = self._redealt(found, dealt, lacks)
        return (self.with_candidates(found, torch.cat(candidates), attended=True) if candidates else found), dealt

    def attended(self, found: FoundTokens, numbers: Tensor, known: Tensor, patches: Tensor) -> Tensor:
        """The patches of one image that are not known, by the attention; from two starts where they are few.

        Args:
            found: All tokens.
            numbers: `[patches]` int64, which of them are this image's; -1 where one is missing.
            known: `[patches]` bool, whose tokens are taken as known.
            patches: `[patches, pixels]`, normalised, where to start.

        Returns:
            `[not known, pixels]`, normalised.
        """
        rows, mine = self.places.rows[self.place], numbers[known]
        tokens, outputs = self._tokens(found.patches[mine], self.place[known]), found.outputs[mine]
        few = int((~known).sum()) <= LACKING * len(known)
        # What is known of a token is as precise as its activations.
        weights = 1 / (self.activations.missed(found.directions[mine]) + ROUNDING)
        weights = weights / weights.square().mean().sqrt()
        starts = [patches[~known], patches[known].mean(dim=0).expand_as(patches[~known])][: 2 if few else 1]
        ends = [
            missing_patches(
                self.attention,
                self.embedding,
                tokens,
                outputs,
                rows[~known],
                start,
                weights=weights if few else None,
                stalled=_TIGHT if few else _STALLED,
            )
            for start in starts
        ]
        return min(ends, key=lambda end: float(end[1]))[0]

    def _redealt(self, found: FoundTokens, dealt: DealtTokens, lacks: Tensor) -> DealtTokens:
        """Gives the tokens of places `[places]` bool to the images whose attention has patches like theirs there."""
        patches, tokens = dealt.patches.clone(), dealt.tokens.clone()
        for place in lacks.nonzero().flatten().tolist():
            here, stands = (found.places == place).nonzero().flatten(), int((self.place == place).nonzero())
            chosen, images = linear_sum_assignment(torch.cdist(found.patches[here], patches[:, stands]).cpu().numpy())
            tokens[:, stands] = -1
            tokens[torch.as_tensor(images), stands] = here[torch.as_tensor(chosen)]
            patches[torch.as_tensor(images), stands] = found.patches[here[torch.as_tensor(chosen)]]
        return DealtTokens(patches, tokens, dealt.sure)

    def _taken_back(self, found: FoundTokens, dealt: DealtTokens) -> DealtTokens:
        """Gives a token to the image whose attention has the very same patch at its place, where another image has it."""
        patches, tokens = dealt.patches.clone(), dealt.tokens.clone()
        for one in range(self.images):
            with torch.no_grad():
                after = self.attention.after(self._tokens(patches[one], self.place))
            directions = nn.functional.normalize(centred(after) @ self.activations.basis, dim=1)
            for stands in (tokens[one] < 0).nonzero().flatten().tolist():
                for other in (tokens[:, stands] >= 0).nonzero().flatten().tolist():
                    token = int(tokens[other, stands])
                    if (found.directions[token] - directions[stands]).norm() < SAME:
                        tokens[one, stands], patches[one, stands] = token, found.patches[token]
                        tokens[other, stands] = -1
                        break
        return DealtTokens(patches, tokens, dealt.sure)

    def checkpoint(self, found: FoundTokens, round_: int, generator: torch.Generator) -> dict[str, Any]:
        """What a later run needs to go on."""
        fields = {name: getattr(found, name) for name in found.__dataclass_fields__}
        return {**fields, "round": round_, "generator": generator.get_state()}

    @staticmethod
    def restored(state: Mapping[str, Any], generator: torch.Generator) -> tuple[FoundTokens, int]:
        """From a checkpoint; the generator is set to where it was."""
        generator.set_state(state["generator"])
        return FoundTokens(**{name: state[name] for name in FoundTokens.__dataclass_fields__}), state["round"]

    def _tokens(self, patches: Tensor, places: Tensor) -> Tensor:
        return patches @ self.embedding.weight.T + self.places.rows[places]

    def _beside(self) -> Tensor:
        """`[patches, patches]` of 0 and 1, neighbours in the grid."""
        side = self.embedding.image_size // self.embedding.patch_size
        line = torch.arange(side, device=self.masked.device)
        grid = torch.cartesian_prod(line, line).double()
        return (torch.cdist(grid, grid, p=1) == 1).double()

    def _around(self, found: FoundTokens, places: Tensor) -> Tensor:
        """`[places, pixels]`, the mean of the patches found around a place, of all where there are none."""
        weight = self.neighbours[places][:, found.places].to(found.patches)
        weight = torch.where(weight.any(dim=1, keepdim=True), weight, torch.ones_like(weight))
        mean: Tensor = weight @ found.patches / weight.sum(dim=1, keepdim=True).clamp(min=1)
        return mean

    def _filled(self, patches: Tensor, known: Tensor) -> Tensor:
        """Patches of each image with the mean of their neighbours where they are not known."""
        beside = self._beside().to(patches)
        beside = torch.where(self.masked[:, None] | self.masked, torch.zeros_like(beside), beside)
        filled = patches.clone()
        for one in range(len(patches)):
            have = known[one].clone()
            if have.any():
                filled[one, ~have] = filled[one, have].mean(dim=0)
            for _ in range(_SWEEPS):
                amount = beside @ have.to(patches)
                reached = ~known[one] & (amount > 0)
                mean = beside @ (filled[one] * have[:, None]) / amount.clamp(min=1)[:, None]
                filled[one, reached] = mean[reached]
                have |= reached
        return filled
