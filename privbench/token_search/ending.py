"""What ends the search for several images: all patches of each solved together, and what one that is exact tells of the other.

Ours; derivation and limits in docs/research/token-search.md.
"""

from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from privbench.closed_form.activations import Settling
from privbench.closed_form.without_positions import PLAUSIBLE
from privbench.core.patches import to_patches
from privbench.models import Victim
from privbench.token_search.found_tokens import FoundTokens
from privbench.token_search.recovery import LACKING, ROUNDING, BatchRecovery, DealtTokens

__all__ = ["Ending", "SettledPatches"]

_AGREES = 1e-2
"""Distance of directions of length one up to which settled patches agree with their tokens."""
_PRECISE = 1.5e-3
"""Share of its activations that a token misses from which its patch is better known by the attention."""
_ATTENDED = 1e-2
"""About how far pixels of a patch are off that the attention alone gave; others by what their token misses. Measured."""
_SAME = 0.1
"""Distance of directions of length one up to which another polish has left a token the one that it was."""
_LESS = 0.5
"""Share of what a token missed below which another polish of it is worth taking."""


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


class Ending:
    """The steps after the search, and the test whether it may end.

    Args:
        recovery: Of the same update.
    """

    def __init__(self, recovery: BatchRecovery) -> None:
        self.recovery, self.images = recovery, recovery.images
        self.model, self.activations, self.embedding = recovery.model, recovery.activations, recovery.embedding
        self.places, self.place, self.masked = recovery.places, recovery.place, recovery.masked

    def settled(self, found: FoundTokens, dealt: DealtTokens) -> SettledPatches:
        """All patches of every image solved together, those that lack a precise token by the attention."""
        exact, patches = deepcopy(self.model).double(), dealt.patches.clone()
        agreed = torch.zeros(self.images, dtype=torch.bool, device=patches.device)
        missed = self.activations.missed(found.directions)
        # -1 is the last entry.
        missed = torch.cat([missed, missed.new_full((1,), torch.inf)])[dealt.tokens]
        known = missed < _PRECISE
        for one in range(self.images):
            if int((~known[one]).sum()) > LACKING * len(known[one]):
                continue
            solved = self._settled(exact, found, dealt.tokens[one], known[one], self.embedding.clipped(patches[one]))
            if solved is not None:
                patches[one], agreed[one] = solved, True
        return SettledPatches(patches, known, torch.where(known, missed + ROUNDING, _ATTENDED), agreed)

    def _settled(self, exact: Victim, found: FoundTokens, numbers: Tensor, known: Tensor, patches: Tensor) -> Tensor | None:
        """The patches of one image, or None where they do not come to agree with its tokens."""
        rows, mine = self.places.rows[self.place], numbers[known]
        directions = found.directions.new_zeros(len(known), found.directions.shape[1])
        directions[known] = found.directions[mine]
        problem = Settling(self.embedding.weight, rows, self.masked, known, directions)
        if not known.all():
            patches[~known] = self.recovery.attended(found, numbers, known, patches)
        patches = self.activations.settled(exact, self.embedding.pixels, patches, problem)
        if not torch.isfinite(patches).all() or not (self.embedding.excess(patches) < PLAUSIBLE).all():
            return None
        reached = self.activations.directions(self.model, self.embedding.images(patches), self.masked)[known]
        return patches if ((reached - directions[known]).norm(dim=1) < _AGREES).all() else None

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
        return DealtTokens(patches, tokens)
