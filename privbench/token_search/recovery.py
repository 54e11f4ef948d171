"""Several images from one update: searches find most tokens, the attention deals them to images and finds the rest.

Ours; derivation and limits in docs/research/token-search.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
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
from privbench.token_search.membership import dealt_by, first_deal, misfits
from privbench.token_search.missing_tokens import missing_patches
from privbench.token_search.places import Places
from privbench.token_search.token_prior import TokenPrior, place_of_patches

__all__ = ["LACKING", "ROUNDING", "BatchRecovery", "DealtTokens"]

LACKING = 0.15
"""Share of an image's patches that the attention is trusted to give alone."""
ROUNDING = 1e-5
"""Added to the share of its activations that a token misses, for its weight."""
_TIGHT = 1e-6
"""A step's share of the squared error at which the attention's patches are done."""
_STALLED = 2e-2
"""The same where the polish of the tokens goes further."""
_ROUGHLY = 0.3
"""The same where tokens may still stand in the wrong image."""
_TURNS = 10
"""Turns of dealing tokens and solving for what is missing; two or three are needed."""
_SWEEPS = 3
"""Passes in which stand-ins are carried on from neighbour to neighbour."""


@dataclass(frozen=True)
class DealtTokens:
    """The patches of a batch, image by image.

    Attributes:
        patches: `[images, patches, pixels]`, normalised; where a token is missing, as the attention has them.
        tokens: `[images, patches]` int64, which token found it is; -1 where it is missing.
    """

    patches: Tensor
    tokens: Tensor

    @classmethod
    def none(cls) -> "DealtTokens":
        """Of no token."""
        return cls(torch.zeros(0, 0, 0), torch.zeros(0, 0, dtype=torch.long))


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

    def dealt(self, found: FoundTokens, before: DealtTokens | None = None) -> DealtTokens:
        """Deals the tokens found to images and solves for the patches that these lack, in turns until nothing changes.

        Args:
            found: All tokens.
            before: What an earlier deal made of some of them, to start from.
        """
        if before is None:
            missed = self.activations.missed(found.directions)
            image = first_deal(missed, found.places, self.each, self.images)
        else:
            image = self._image_of(found, before)
        for turn in range(_TURNS):
            tokens, roughly = self._numbers(found, image), before is None and turn == 0
            dealt = DealtTokens(self._solved(found, tokens, _ROUGHLY if roughly else _STALLED), tokens)
            again = self._image_of(found, dealt)
            if torch.equal(again, image) and not roughly:
                break
            image = again
        return dealt

    def _numbers(self, found: FoundTokens, image: Tensor) -> Tensor:
        """`[images, patches]` int64, which token found each patch is, of a deal `[found]`; -1 where one is missing."""
        numbers = torch.full((self.images, len(self.place)), -1, device=self.place.device)
        for one in range(self.images):
            for place in range(len(self.each)):
                mine = ((image == one) & (found.places == place)).nonzero().flatten()
                numbers[one, (self.place == place).nonzero().flatten()[: len(mine)]] = mine
        return numbers

    def _solved(self, found: FoundTokens, tokens: Tensor, stalled: float) -> Tensor:
        """`[images, patches, pixels]`: those of the tokens found, and what the attention has where one is missing."""
        known = tokens >= 0
        patches = found.patches.new_zeros(*tokens.shape, found.patches.shape[1])
        patches[known] = found.patches[tokens[known]]
        patches = self._filled(patches, known)
        for one in range(self.images):
            missing = int((~known[one]).sum())
            # Else they have more unknowns than the tokens found have equations.
            if 0 < missing * patches.shape[2] <= int(known[one].sum()) * found.outputs.shape[1]:
                solved = self.attended(found, tokens[one], known[one], patches[one], stalled)
                patches[one, ~known[one]] = self.embedding.clipped(solved)
        return patches

    def _image_of(self, found: FoundTokens, dealt: DealtTokens) -> Tensor:
        """`[found]` int64, the image that explains best what the attention made of each token."""
        stands = torch.empty(len(found), self.images, dtype=torch.long, device=self.place.device)
        for token, place in enumerate(found.places.tolist()):
            there = (self.place == place).nonzero().flatten()
            # Patches that share a place stand anyhow: its own one, or else the one most like it.
            apart = (dealt.patches[:, there] - found.patches[token]).norm(dim=-1)
            stands[token] = there[apart.argmin(dim=1)]
        images = self._tokens(dealt.patches, self.place)
        tokens = self._tokens(found.patches, found.places)
        return dealt_by(misfits(self.attention, tokens, found.outputs, images, stands), found.places, self.each)

    def completed(self, found: FoundTokens, before: DealtTokens | None = None) -> tuple[FoundTokens, DealtTokens]:
        """The missing patches of each image from its attention, as far as they pass the test of a token.

        Args:
            found: All tokens.
            before: What an earlier deal made of some of them, to start from.

        Returns:
            What is found with them, and the patches as dealt before, those missing as the attention has them.
        """
        dealt = self.dealt(found, before)
        missing, candidates = dealt.tokens < 0, []
        for one in missing.any(dim=1).nonzero().flatten().tolist():
            with torch.no_grad():
                after = self.attention.after(self._tokens(dealt.patches[one], self.place))
            candidates.append(centred(after[missing[one]]) @ self.activations.basis)
        return (self.with_candidates(found, torch.cat(candidates), attended=True) if candidates else found), dealt

    def attended(
        self, found: FoundTokens, numbers: Tensor, known: Tensor, patches: Tensor, stalled: float = _STALLED
    ) -> Tensor:
        """The patches of one image that are not known, by the attention; from two starts where they are few.

        Args:
            found: All tokens.
            numbers: `[patches]` int64, which of them are this image's; -1 where one is missing.
            known: `[patches]` bool, whose tokens are taken as known.
            patches: `[patches, pixels]`, normalised, where to start.
            stalled: Share of the squared error below which a step's gain ends it, unless patches are few.

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
                stalled=_TIGHT if few else stalled,
            )
            for start in starts
        ]
        return min(ends, key=lambda end: float(end[1]))[0]

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
