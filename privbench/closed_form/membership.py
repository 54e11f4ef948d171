"""Whose a token is: the attention mixes the tokens of one image and of no other.

What a head puts out for a token t is `o_t = Σ m_k exp(q_t·k) v_k / Σ m_k exp(q_t·k)` with m_k = 1 for the tokens of its image and 0 for
all others: linear in m once multiplied by the denominator, `Σ_k m_k exp(q_t·k) (v_k - o_t) = 0`. Every token so votes on every other one, and the
batch is cut into images that agree with the votes and hold each place as often as an image does. Ours; the multiplicities of `unplaced` are
the same equation.
"""

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from privbench.closed_form.attention import FirstAttention

__all__ = ["Votes", "images_of", "votes"]

_EXACTLY = 1e6
"""Weight of the equations that count the tokens of a place, relative to the others."""
_ROUNDING = 1e-6
_DOUBT = 2.5e-3
"""Variance of a vote that is not rounding: tokens that are missing are stood in for."""
_LOUDEST = 0.75
"""A vote that is further from no opinion counts as this."""
_ANCHORS = 8
"""Places from which the cut is started, those with most tokens."""
_ROUNDS = 30


@dataclass(frozen=True)
class Votes:
    """What tokens say of each other.

    Attributes:
        agreement: `[tokens, tokens]`, symmetric: near 1/2 where two share an image, near -1/2 or below where not, 0 where nothing is said.
    """

    agreement: Tensor


def votes(
    attention: FirstAttention, tokens: Tensor, outputs: Tensor, places: Tensor, each: Tensor, stand_ins: Tensor, images: int
) -> Votes:
    """Solves the equations of every token that is found.

    Args:
        attention: The first attention, in float64.
        tokens: `[keys, width]`, before the attention: those found first, one for each place that lacks tokens after them.
        outputs: `[found, width]`, of the tokens found.
        places: `[keys]` int64.
        each: `[places]`, tokens that one image has there.
        stand_ins: `[found, width]`, what would stand in for the tokens that are found if they were missing.
        images: Number of images.
    """
    count = len(outputs)
    with torch.no_grad():
        query, key, value = attention.parts(torch.cat([attention.class_token, tokens]))
        _, other_key, other_value = attention.parts(stand_ins)
    mixed = outputs.unflatten(1, (attention.heads, -1)).transpose(0, 1)
    here = (places[:, None] == torch.arange(len(each), device=places.device)).to(outputs).T
    missing = each - here[:, :count].sum(dim=1) / images
    query, found = query[:, 1 : count + 1], slice(1, count + 1)
    noise = _noise(query, (key[:, found], other_key), (value[:, found], other_value), mixed)
    weights = (query @ key.mT).exp()
    agreement, certainty = outputs.new_zeros(count, count), outputs.new_zeros(count, count)
    for one in range(count):
        system = weights[:, one, None] * (value.mT - mixed[:, one, :, None])
        amount = (weights[:, one, 1 + count :].square() * missing[places[count:]]).sum(dim=1)
        fixed = system[..., 0] + system[..., 1 + one]
        floor = _ROUNDING * fixed.square().mean(dim=1)
        spread = amount[:, None, None] * noise + floor[:, None, None] * torch.eye(noise.shape[1]).to(noise)
        white = torch.linalg.solve_triangular(torch.linalg.cholesky(spread), system, upper=False).flatten(0, 1)
        fixed = white[:, 0] + white[:, 1 + one]
        others = torch.arange(len(tokens), device=places.device) != one
        white = white[:, 1:][:, others]
        counted, left = here[:, others], each - here[:, one]
        exactly = _EXACTLY * white.square().sum(dim=0).mean()
        inverse = torch.linalg.inv(white.T @ white + exactly * counted.T @ counted + torch.eye(white.shape[1]).to(white))
        belongs = inverse @ (exactly * counted.T @ left - white.T @ fixed + 1 / images)
        error = (white @ belongs + fixed).square().sum() / (len(white) - white.shape[1] + len(each))
        certain = 1 / (inverse.diagonal() * error.clamp(min=1) + _DOUBT)
        elsewhere = places[others][: count - 1] != places[one]
        target = others.nonzero().flatten()[: count - 1][elsewhere]
        vote = (belongs - 1 / images).clamp(-_LOUDEST, _LOUDEST) * certain
        agreement[one, target], certainty[one, target] = vote[: count - 1][elsewhere], certain[: count - 1][elsewhere]
    return Votes((agreement + agreement.T) / (certainty + certainty.T).clamp(min=1e-12))


def _noise(query: Tensor, keys: tuple[Tensor, Tensor], values: tuple[Tensor, Tensor], mixed: Tensor) -> Tensor:
    """`[heads, head width, head width]`, covariance of what a stand-in gets wrong, relative to its weight; keys and values
    `[heads, found, head width]` of the tokens found and of their own stand-ins."""
    given, other = ((query @ key.mT).exp()[..., None] for key in keys)
    apart, other_apart = (value[:, None] - mixed[:, :, None] for value in values)
    wrong = (given * apart / other - other_apart).flatten(1, 2)
    covariance: Tensor = wrong.mT @ wrong / wrong.shape[1]
    return covariance


def images_of(cast: Votes, places: Tensor, each: Tensor, images: int) -> Tensor:
    """Cuts the tokens found into images.

    Args:
        cast: The votes.
        places: `[found]` int64.
        each: `[places]`, tokens that one image has there.
        images: Number of images.

    Returns:
        `[found]` int64, the image of each token, in no particular order of images.
    """
    found = torch.bincount(places, minlength=len(each))
    best, best_value = torch.zeros_like(places), -torch.inf
    for anchor in found.argsort(descending=True, stable=True)[:_ANCHORS].tolist():
        anchors = (places == anchor).nonzero().flatten()[:images]
        scores = torch.zeros(len(places), images).to(cast.agreement)
        scores[:, : len(anchors)] = cast.agreement[:, anchors]
        scores[anchors, torch.arange(len(anchors), device=places.device)] = 1e3
        labels = _dealt(scores, places, each)
        for _ in range(_ROUNDS):
            member = torch.nn.functional.one_hot(labels, images).to(scores)
            again = _dealt(cast.agreement @ member, places, each)
            if torch.equal(again, labels):
                break
            labels = again
        member = torch.nn.functional.one_hot(labels, images).to(scores)
        value = float((member * (cast.agreement @ member)).sum())
        if value > best_value:
            best, best_value = labels, value
    return best


def _dealt(scores: Tensor, places: Tensor, each: Tensor) -> Tensor:
    """The images `[tokens]` of highest score, of which none gets more tokens of a place than it has there."""
    labels = torch.zeros_like(places)
    for place in places.unique().tolist():
        here = (places == place).nonzero().flatten()
        slots = scores[here].repeat_interleave(int(each[place]), dim=1)
        rows, chosen = linear_sum_assignment(-slots.cpu().numpy())
        labels[here[torch.as_tensor(rows)]] = torch.as_tensor(chosen // int(each[place])).to(labels)
    return labels
