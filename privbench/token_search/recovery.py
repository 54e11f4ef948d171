"""Several images from one update: searches find most tokens, the attention deals them to images and finds the rest.

Ours; derivation and limits in docs/research/token-search.md.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from privbench.closed_form.activations import Activations, Settling
from privbench.closed_form.embedding import PatchEmbedding
from privbench.closed_form.first_block import centred
from privbench.closed_form.moments import later_moments
from privbench.closed_form.without_positions import PLAUSIBLE, tokens_of_moments
from privbench.core import Observation
from privbench.core.patches import to_patches
from privbench.models import Victim
from privbench.token_search.attention import FirstAttention
from privbench.token_search.found_tokens import FoundTokens, TokenSearch, with_tokens
from privbench.token_search.membership import clearer, exchanged, images_by, images_of, votes
from privbench.token_search.missing_tokens import missing_patches
from privbench.token_search.places import Places
from privbench.token_search.token_prior import TokenPrior, place_of_patches

__all__ = ["BatchRecovery", "DealtTokens", "SettledPatches"]

_AGREES = 1e-2
"""Distance of directions of length one up to which settled patches agree with their tokens."""
_PRECISE = 1.5e-3
"""Share of its activations that a token misses from which its patch is better known by the attention."""
_LACKING = 0.15
"""Share of an image's patches that the attention is trusted to give alone."""
_ATTENDED = 1e-2
"""About how far pixels of a patch are off that the attention alone gave; others by what their token misses. Measured."""
_ROUNDING = 1e-5
"""Added to the share of its activations that a token misses, for its weight."""
_TIGHT = 1e-6
"""A step's share of the squared error at which the attention's patches are done."""
_STALLED = 2e-2
"""The same where the polish of the tokens goes further."""
_SAME = 0.1
"""Distance of directions of length one below which the attention's patch is the one that a token shows."""
_LESS = 0.5
"""Share of what a token missed below which another polish of it is worth taking."""
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


@dataclass(frozen=True)
class SettledPatches:
    """The patches of a batch in the end.

    Attributes:
        patches: `[images, patches, pixels]`, normalised.
        precise: `[images, patches]` bool, those that have a token of their own which is known precisely.
        spread: `[images, patches]`, about how far pixels of each patch are off.
        each_agreed: `[images]` bool, which images came to agree with their tokens.
    """

    patches: Tensor
    precise: Tensor
    spread: Tensor
    each_agreed: Tensor

    @property
    def agreed(self) -> bool:
        """Whether all images came to agree with their tokens."""
        return bool(self.each_agreed.all())

    @property
    def all_but_one_agreed(self) -> bool:
        """Whether one image at most is left."""
        return int((~self.each_agreed).sum()) <= 1


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
        lacks &= lacks.sum() <= _LACKING * len(self.place)
        sure = torch.cat([dealt.sure > _SURE * dealt.sure.median(), torch.zeros_like(dealt.tokens[0, :1], dtype=torch.bool)])
        for one in range(self.images):
            # A token in the wrong image spoils all equations, one that is left out costs a few; -1 is the last entry.
            known = sure[dealt.tokens[one]] & ~lacks[self.place]
            if known.all() or not known.any():
                continue
            solved = self._attended(found, dealt.tokens[one], known, patches[one])
            patches[one, ~known] = self.embedding.clipped(solved)
            with torch.no_grad():
                after = self.attention.after(self._tokens(patches[one], self.place))
            candidates.append(centred(after[~known]) @ self.activations.basis)
        dealt = self._taken_back(found, DealtTokens(patches, dealt.tokens, dealt.sure))
        dealt = self._redealt(found, dealt, lacks)
        return (self.with_candidates(found, torch.cat(candidates), attended=True) if candidates else found), dealt

    def _attended(self, found: FoundTokens, numbers: Tensor, known: Tensor, patches: Tensor) -> Tensor:
        """The patches of one image that are not known, by the attention; from two starts where they are few."""
        rows, mine = self.places.rows[self.place], numbers[known]
        tokens, outputs = self._tokens(found.patches[mine], self.place[known]), found.outputs[mine]
        few = int((~known).sum()) <= _LACKING * len(known)
        # What is known of a token is as precise as its activations.
        weights = 1 / (self.activations.missed(found.directions[mine]) + _ROUNDING)
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
                    if (found.directions[token] - directions[stands]).norm() < _SAME:
                        tokens[one, stands], patches[one, stands] = token, found.patches[token]
                        tokens[other, stands] = -1
                        break
        return DealtTokens(patches, tokens, dealt.sure)

    def with_the_larger_whole(self, found: FoundTokens, dealt: DealtTokens) -> DealtTokens:
        """Of two images, the one whose tokens miss less gets the better token of each place, if that makes it whole and exact.

        Once all its tokens are found they need neither odds nor votes. Else the tokens stay as dealt.
        """
        alone = bool((self.each == 1).all()) and self.images == 2 and bool((found.missing(self.places) < 2).all())
        if not alone:
            return dealt
        missed = self.activations.missed(found.directions)
        tokens, patches = torch.full_like(dealt.tokens, -1), dealt.patches.clone()
        for stands, place in enumerate(self.place.tolist()):
            here = (found.places == place).nonzero().flatten()
            here = here[missed[here].argsort()]
            tokens[: len(here), stands] = here
            patches[: len(here), stands] = found.patches[here]
        other = DealtTokens(patches, tokens, dealt.sure)
        return other if bool(self.settled(found, other).each_agreed[0]) else dealt

    def sharpened(self, found: FoundTokens, dealt: DealtTokens, settled: SettledPatches) -> FoundTokens:
        """The tokens of images that came to agree, polished once more from there, where they miss less after it."""
        directions, patches, outputs = found.directions.clone(), found.patches.clone(), found.outputs.clone()
        for one in settled.each_agreed.nonzero().flatten().tolist():
            there = dealt.tokens[one] >= 0
            mine = dealt.tokens[one][there]
            starts = self.activations.directions(self.model, self.embedding.images(settled.patches[one]), self.masked)[there]
            polished, missed = self.activations.polished(starts.to(directions))
            stayed = (polished - directions[mine]).norm(dim=1) < _SAME
            better = (stayed & (missed < _LESS * self.activations.missed(directions[mine]))).nonzero().flatten()
            for number in better.tolist():
                token = mine[number]
                directions[token] = polished[number]
                row = self.places.rows[found.places[token]]
                patch, _, mixed = self.activations.places(polished[number : number + 1], row, self.embedding.weight)
                patches[token], outputs[token] = patch[0], mixed[0]
        return replace(found, directions=directions, patches=patches, outputs=outputs)

    def with_the_last(self, found: FoundTokens, dealt: DealtTokens, known: Tensor, pictures: Tensor) -> DealtTokens:
        """Gives all tokens that are not of the images `[images]` bool that are known to the one that is not.

        Args:
            found: With what the picture of that image adds; tokens that were found before come first, as they were.
            dealt: Before that.
            known: All images but one.
            pictures: `[1, 3, height, width]`, of that one; its patches stand in where it has no token.
        """
        tokens, patches, last = dealt.tokens.clone(), dealt.patches.clone(), int((~known).nonzero())
        free = torch.ones(len(found), dtype=torch.bool, device=tokens.device)
        free[tokens[known][tokens[known] >= 0]] = False
        normalised = (pictures.to(patches) - self.model.mean.to(patches)) / self.model.std.to(patches)
        tokens[last], patches[last] = -1, to_patches(normalised, self.embedding.patch_size)[0].flatten(1)
        for token in free.nonzero().flatten().tolist():
            stands = ((self.place == found.places[token]) & (tokens[last] < 0)).nonzero().flatten()[:1]
            tokens[last, stands], patches[last, stands] = token, found.patches[token]
        return DealtTokens(patches, tokens, dealt.sure)

    def settled(self, found: FoundTokens, dealt: DealtTokens) -> SettledPatches:
        """All patches of every image solved together, those that lack a precise token by the attention."""
        exact, patches = deepcopy(self.model).double(), dealt.patches.clone()
        agreed = torch.zeros(self.images, dtype=torch.bool, device=patches.device)
        missed = self.activations.missed(found.directions)
        # -1 is the last entry.
        missed = torch.cat([missed, missed.new_full((1,), torch.inf)])[dealt.tokens]
        known = missed < _PRECISE
        for one in range(self.images):
            if int((~known[one]).sum()) > _LACKING * len(known[one]):
                continue
            solved = self._settled(exact, found, dealt.tokens[one], known[one], self.embedding.clipped(patches[one]))
            if solved is not None:
                patches[one], agreed[one] = solved, True
        return SettledPatches(patches, known, torch.where(known, missed + _ROUNDING, _ATTENDED), agreed)

    def _settled(self, exact: Victim, found: FoundTokens, numbers: Tensor, known: Tensor, patches: Tensor) -> Tensor | None:
        """The patches of one image, or None where they do not come to agree with its tokens."""
        rows, mine = self.places.rows[self.place], numbers[known]
        directions = found.directions.new_zeros(len(known), found.directions.shape[1])
        directions[known] = found.directions[mine]
        problem = Settling(self.embedding.weight, rows, self.masked, known, directions)
        if not known.all():
            patches[~known] = self._attended(found, numbers, known, patches)
        patches = self.activations.settled(exact, self.embedding.pixels, patches, problem)
        if not torch.isfinite(patches).all() or not (self.embedding.excess(patches) < PLAUSIBLE).all():
            return None
        reached = self.activations.directions(self.model, self.embedding.images(patches), self.masked)[known]
        return patches if ((reached - directions[known]).norm(dim=1) < _AGREES).all() else None

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
