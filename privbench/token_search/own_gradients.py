"""Batches from the gradients of single tokens: where a model is twice as wide as a batch has tokens, patches of any size.

Once all tokens behind the first attention are known, sums over tokens of gradient times token fall apart into the gradient of
each. Those of a place sum to the gradient of its position row, which says where a token stands and how long it is; and the
gradient of the embedding, `Σ δ xᵀ`, gives every patch with all its pixels by least squares. Ours; derivation in
docs/research/token-search.md.
"""

from dataclasses import dataclass
from typing import cast

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from privbench.closed_form.activations import Activations
from privbench.closed_form.embedding import PatchEmbedding
from privbench.closed_form.first_block import centred
from privbench.closed_form.moments import first_crossings, later_moments
from privbench.closed_form.row_space import least_squares
from privbench.closed_form.without_positions import tokens_of_moments
from privbench.core import Observation
from privbench.models import Victim
from privbench.token_search.attention import FirstAttention
from privbench.token_search.membership import dealt_by, misfits

__all__ = ["OwnGradients", "is_wide_enough"]

_CUTOFF = 1e-13
_SAME = 1e-2
"""Sine of the angle up to which a token is one of those before the patches."""
_TURNS = 20
"""Turns of dealing tokens to images; three or four are needed."""
_SEEDS = 8
"""Places whose tokens begin a deal, each a deal of its own."""
_FITS = 5e-2
"""Share of a position row's gradient that its tokens may leave unexplained; measured: 1.5e-4 at most, 0.26 of bad tokens."""
_LEAST_BLOCKS = 3
"""Blocks that a model needs for two moments behind its first attention."""


def is_wide_enough(width: int, tokens: int, blocks: int) -> bool:
    """Whether the moments of a batch's tokens lead to them."""
    return 2 * tokens <= width and blocks >= _LEAST_BLOCKS


@dataclass(frozen=True)
class OwnGradients:
    """The patches of a batch.

    Attributes:
        patches: `[images, patches, pixels]`, normalised; None where not all tokens were found, or they fit no places.
        found: Patch tokens found.
        residual: The largest share of a position row's gradient that its tokens leave unexplained; 1 without patches.
    """

    patches: Tensor | None
    found: int
    residual: float

    @classmethod
    def of(cls, model: Victim, observation: Observation, activations: Activations, images: int) -> "OwnGradients":
        """Finds all tokens by their moments, and by them the patches.

        Args:
            model: The simulated client's, with a position row for each patch.
            observation: What the attacker sees.
            activations: The test of a token, for all tokens of the batch.
            images: Number of images.
        """
        embedding, rank = PatchEmbedding.of(model), activations.basis.shape[1]
        before, first = images * len(embedding.positions) + len(embedding.prefix), images * len(embedding.prefix)
        moments = later_moments(model, observation, activations.basis, before)
        directions = tokens_of_moments(activations, moments) if len(moments) > 1 else activations.basis.new_zeros(0, rank)
        if len(directions) < rank:
            return cls(None, max(0, len(directions) - first), 1.0)
        crossings = first_crossings(model, observation, before, rank)
        # Of a token `t' = |t'| n` behind the attention each inverse below knows what comes with it up to |t'|.
        passed = crossings.later @ activations.basis @ torch.linalg.inv(directions)
        earlier = least_squares(passed, crossings.past, cutoff=_CUTOFF)
        patch = _without_prefix(earlier, centred(embedding.prefix), images)
        if patch is None:
            return cls(None, rank - first, 1.0)
        directions, earlier = directions[patch], earlier[patch]
        every = torch.cat([earlier, centred(embedding.prefix)])
        own = least_squares(every.T, crossings.embedded.T, cutoff=_CUTOFF)[: len(earlier)]
        rows = _position_rows(model, observation)
        places = _places(own, rows, images)
        shares, residual = _shares(own, rows, places)
        if residual > _FITS or not (shares > 0).all():
            return cls(None, rank - first, residual)
        weight = observation.gradients[model.parts().patch_weight].double().flatten(1)
        shown = least_squares((own * shares[:, None]).T, weight, cutoff=_CUTOFF)
        tokens, after = earlier / shares[:, None], directions @ activations.basis.T / shares[:, None]
        image = _images(model, activations, tokens, after, places, images)
        patches = torch.empty(images, len(rows), shown.shape[1], dtype=shown.dtype, device=shown.device)
        patches[image, places] = shown
        return cls(patches, rank - first, residual)


def _without_prefix(tokens: Tensor, prefix: Tensor, images: int) -> Tensor | None:
    """Which tokens `[tokens, width]` are patches; None where those before the patches are not all among them."""
    unit = torch.nn.functional.normalize(tokens, dim=1)
    left = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
    for one in prefix:
        likeness = torch.where(left, unit @ (one / one.norm()), -torch.ones_like(unit[:, 0]))
        best = likeness.topk(images)
        if not (1 - best.values.square() < _SAME**2).all():
            return None
        left[best.indices] = False
    return left.nonzero().flatten()


def _position_rows(model: Victim, observation: Observation) -> Tensor:
    """`[places, width]`, the gradients of the patches' position rows: the sum over images of their tokens' gradients."""
    parts = model.parts()
    table = observation.gradients[cast(str, parts.position)].double().flatten(0, -2)
    return table[-model.patch_count :]


def _places(own: Tensor, rows: Tensor, images: int) -> Tensor:
    """`[tokens]` int64, where each stands: gradients of tokens, up to their length, whose sums are those of position rows."""
    unit = torch.nn.functional.normalize(own, dim=1)
    amounts = least_squares(unit.T, rows.T, cutoff=_CUTOFF).abs()
    amounts = amounts / amounts.sum(dim=1, keepdim=True).clamp(min=torch.finfo(amounts.dtype).tiny)
    tokens, slots = linear_sum_assignment(-amounts.repeat_interleave(images, dim=1).cpu().numpy())
    places = torch.empty(len(own), dtype=torch.long, device=own.device)
    places[torch.as_tensor(tokens, device=own.device)] = torch.as_tensor(slots // images, device=own.device)
    return places


def _shares(own: Tensor, rows: Tensor, places: Tensor) -> tuple[Tensor, float]:
    """By what each token's gradient counts in the row of its place, and how much of a row that leaves at most."""
    shares, worst = own.new_zeros(len(own)), 0.0
    for place, row in enumerate(rows):
        here = (places == place).nonzero().flatten()
        solved = least_squares(own[here].T, row[:, None], cutoff=_CUTOFF)
        shares[here] = solved[:, 0]
        left = (own[here].T @ solved)[:, 0] - row
        worst = max(worst, float(left.norm() / row.norm().clamp(min=torch.finfo(row.dtype).tiny)))
    return shares, worst


def _images(model: Victim, activations: Activations, tokens: Tensor, after: Tensor, places: Tensor, images: int) -> Tensor:
    """`[tokens]` int64, whose each token is, by the attention; from centred tokens before and behind it.

    Dealt from several starts, of which the deal that explains the outputs best is taken: with few patches an image a wrong deal
    can be what one exchange in a place alone does not mend.
    """
    attention, each = FirstAttention.of(model), torch.ones(model.patch_count, dtype=torch.long, device=places.device)
    added = after - tokens - centred(activations.bias[None])
    outputs = least_squares(activations.added, added.T, cutoff=_CUTOFF).T @ activations.outputs.T
    stands = places[:, None].expand(-1, images)
    best, least = torch.empty_like(places), torch.inf
    for seed in range(min(_SEEDS, len(each))):
        # Tokens of one image attend to the same tokens, so that what the heads put out for them is alike.
        image = dealt_by(torch.cdist(outputs, outputs[places == seed]), places, each)
        for _ in range(_TURNS):
            order = torch.stack([(image == one).nonzero().flatten() for one in range(images)])
            order = order.gather(1, places[order].argsort(dim=1))
            costs = misfits(attention, tokens, outputs, tokens[order], stands)
            before, image = image, dealt_by(costs, places, each)
            if torch.equal(before, image):
                break
        cost = float(costs.gather(1, image[:, None]).sum())
        if cost < least:
            best, least = image, cost
    return best
