"""Tokens of a batch, found one by one: what has been found, and rounds of searches for what is missing.

The first round starts from what smooth images lead to expect at each place; later ones re-estimate that expectation from the
tokens found (those missing are the improbable ones), and start from the tokens of neighbouring places too. Each round asks
every place that still lacks tokens.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from privbench.closed_form.activations import Activations
from privbench.closed_form.embedding import PatchEmbedding
from privbench.closed_form.without_positions import MEMBER, SAME
from privbench.token_search.places import Places
from privbench.token_search.token_fit import fitted
from privbench.token_search.token_prior import Gaussian, TokenPrior, conditioned

__all__ = ["FoundTokens", "TokenSearch", "with_tokens"]

_FITS = 3e-2
"""Sine of the angle by which a token may miss the equations of its place; measured: 0.009 at most, elsewhere at least 0.1."""
_WEAK = 1e-2
"""Share of the activations that a token of small gradient may leave unexplained; seen: 2.9e-3."""
_STAYED = 0.05
"""Distance of directions of length one up to which the polish left a token where it was."""
_PROMISING = 0.045
"""Share of the activations outside the space below which a search's end is worth polishing."""
_NUMBERS = 60
"""Numbers in which a token is searched."""
_APART = 0.2
"""Distance of directions of length one below which a search ended at a token that is known."""
_FOUND_STARTS = 4
"""Starts at a place from each prior that was re-estimated."""


@dataclass(frozen=True)
class FoundTokens:
    """Tokens of a batch and what they show.

    Attributes:
        directions: `[tokens, rank]` of length one.
        places: `[tokens]` int64.
        patches: `[tokens, pixels]`, normalised.
        outputs: `[tokens, width]`, what the heads of the first attention put out for them.
    """

    directions: Tensor
    places: Tensor
    patches: Tensor
    outputs: Tensor

    @classmethod
    def none(cls, activations: Activations, embedding: PatchEmbedding) -> "FoundTokens":
        """Before anything is found."""
        width, pixels = embedding.weight.shape
        shapes = (activations.basis.shape[1], pixels, width)
        directions, patches, outputs = (embedding.weight.new_zeros(0, columns) for columns in shapes)
        return cls(directions, torch.zeros(0, dtype=torch.long, device=directions.device), patches, outputs)

    def __len__(self) -> int:
        return len(self.directions)

    def missing(self, places: Places) -> Tensor:
        """`[places]` int64, tokens that are not yet found."""
        return places.capacity - torch.bincount(self.places, minlength=len(places.capacity))


def with_tokens(
    found: FoundTokens,
    candidates: Tensor,
    activations: Activations,
    places: Places,
    embedding: PatchEmbedding,
    *,
    attended: bool = False,
) -> FoundTokens:
    """Polishes candidates, and keeps those that are new tokens of some place.

    Args:
        found: What is known.
        candidates: `[candidates, rank]`.
        activations: Polish and test directions.
        places: Whose equations say where a token stands.
        embedding: Patches to tokens.
        attended: Whether the candidates come from the attention. They may then miss more of their activations, as tokens of
            small gradients do, if the polish leaves them where they were.
    """
    if not len(candidates):
        return found
    directions, missed = activations.polished(candidates)
    members = missed < MEMBER
    if attended:
        stayed = (directions - torch.nn.functional.normalize(candidates, dim=1)).norm(dim=1) < _STAYED
        members |= stayed & (missed < _WEAK)
    directions = directions[members]
    if not len(directions):
        return found
    misfit, place = places.misfits(directions).min(dim=1)
    missing = found.missing(places)
    fresh: list[int] = []
    for one in (misfit < _FITS).nonzero().flatten().tolist():
        here = place[one]
        others = torch.cat([found.directions[found.places == here], directions[[i for i in fresh if place[i] == here]]])
        if missing[here] > 0 and not ((others - directions[one]).norm(dim=1) < SAME).any():
            fresh.append(one)
            missing[here] -= 1
    patches, outputs = [found.patches], [found.outputs]
    for one in fresh:
        known = places.rows[place[one]]
        solved, _, mixed = activations.places(directions[one : one + 1], known, embedding.weight)
        patches.append(solved)
        outputs.append(mixed)
    return replace(
        found,
        directions=torch.cat([found.directions, directions[fresh]]),
        places=torch.cat([found.places, place[fresh]]),
        patches=torch.cat(patches),
        outputs=torch.cat(outputs),
    )


class TokenSearch:
    """Searches that go on where a batch still lacks tokens.

    Args:
        activations: The test of a token.
        places: Where tokens stand.
        prior: What they are expected to be.
        neighbours: `[places, places]` bool, places side by side.
    """

    def __init__(self, activations: Activations, places: Places, prior: TokenPrior, neighbours: Tensor) -> None:
        self.activations, self.places, self.prior, self.neighbours = activations, places, prior, neighbours
        self.expected = conditioned(prior.covariance, activations, places, _NUMBERS)
        self.stepping = conditioned(prior.steps, activations, places, _NUMBERS)

    def candidates(self, found: FoundTokens, starts: int, first: bool, generator: torch.Generator) -> Tensor:
        """Where one round of searches ends, `[candidates, rank]`.

        Args:
            found: What is known.
            starts: Starts at each place in the first round and every third one.
            first: Whether the prior of smooth images is asked.
            generator: Draws the starts.
        """
        lacking = found.missing(self.places).nonzero().flatten()
        ends = []
        if first:
            ends.append(self._from(self.expected, self.prior.mean, self._starts(lacking, starts), generator))
        if len(found):
            shift, spread = self._estimated(found)
            for covariance in (0.7 * spread + 0.3 * self.prior.covariance, 1.25 * (spread + self.prior.covariance)):
                gaussian = conditioned(covariance, self.activations, self.places, _NUMBERS)
                ends.append(self._from(gaussian, self.prior.mean + shift, self._starts(lacking, _FOUND_STARTS), generator))
            ends.append(self._from_neighbours(found, lacking, generator))
        directions, missed, where = (torch.cat(part) for part in zip(*ends, strict=True))
        return self._promising(found, directions, missed, where)

    def _starts(self, lacking: Tensor, number: int) -> Tensor:
        """The places that lack tokens, each `number` times for each token that one image has there."""
        images = self.places.capacity.min()
        return lacking.repeat_interleave(number * (self.places.capacity // images)[lacking])

    def _from(self, gaussian: Gaussian, means: Tensor, where: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        numbers = torch.randn(len(where), gaussian.moves.shape[1], generator=generator, dtype=torch.float64).to(means)
        centres = gaussian.centres(means[where], where)
        return (*fitted(self.activations, centres, gaussian.moves, numbers), where)

    def _from_neighbours(self, found: FoundTokens, lacking: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """A token differs from its neighbours' by little; half of a deviation is added."""
        beside = self.neighbours[lacking][:, found.places].nonzero()
        where, given = lacking[beside[:, 0]], beside[:, 1]
        numbers = torch.randn(len(where), self.stepping.moves.shape[1], generator=generator, dtype=torch.float64) * 0.5
        means = self.prior.mean[where] + self._excess(found)[given]
        centres = self.stepping.centres(means, where)
        return (*fitted(self.activations, centres, self.stepping.moves, numbers.to(means)), where)

    def _excess(self, found: FoundTokens) -> Tensor:
        """`[tokens, width]`: tokens found less what is expected at their places."""
        tokens = self.places.lengths(found.directions, found.places) @ self.activations.basis.T
        return tokens - self.prior.mean[found.places]

    def _estimated(self, found: FoundTokens) -> tuple[Tensor, Tensor]:
        """Mean and covariance of what is found, around the prior's mean; the mean is shrunk as if ten more had been found."""
        excess = self._excess(found)
        shift = excess.sum(dim=0) / (len(excess) + 10)
        rest = excess - shift
        return shift, rest.T @ rest / len(excess)

    def _promising(self, found: FoundTokens, directions: Tensor, missed: Tensor, where: Tensor) -> Tensor:
        """The best ends of each place, apart from each other and from tokens known there; one more than are missing."""
        kept: list[Tensor] = []
        missing = found.missing(self.places)
        for place in sorted(set(where.tolist())):
            here = ((where == place) & (missed < _PROMISING)).nonzero().flatten()
            known = found.directions[found.places == place]
            chosen = directions[:0]
            for one in here[missed[here].argsort()].tolist():
                others = torch.cat([known, chosen])
                if not ((others - directions[one]).norm(dim=1) < _APART).any():
                    chosen = torch.cat([chosen, directions[one : one + 1]])
                if len(chosen) > missing[place]:
                    break
            kept.append(chosen)
        return torch.cat(kept)
