"""Whose a token is: the attention mixes the tokens of one image and of no other.

What a head puts out for a token t is `o_t = Σ m_k exp(q_t·k) v_k / Σ m_k exp(q_t·k)` with m_k = 1 for the tokens of its image
and 0 for all others: linear in m once multiplied by the denominator, `Σ_k m_k exp(q_t·k) (v_k - o_t) = 0`. Every token so votes
on every other one, and the batch is cut into images that agree with the votes and hold each place as often as an image does.
Where a token is missing, the mean of its neighbours stands in; what such a stand-in gets wrong is measured on the tokens that
are found, and weighs the equations. Ours; the multiplicities of `without_positions` are the same equation.
"""

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from privbench.token_search.attention import FirstAttention

__all__ = ["Votes", "exchanged", "images_of", "votes"]

_EXACTLY = 1e6
"""Weight of the equations that count the tokens of a place, relative to the others."""
_ROUNDING = 1e-4
"""Variance of what the heads put out for a token, relative to its square; of most tokens it is far less, of some more."""
_DOUBT = 2.5e-3
"""Variance of a vote that is not rounding: tokens that are missing are stood in for."""
_LOUDEST = 0.75
"""A vote that is further from no opinion counts as this."""
_ANCHORS = 8
"""Places from which the cut is started, those with most tokens."""
_ROUNDS = 30
_TURNS, _TURNS_OF_FIT = 4, 50
_USUAL_VOTE = 1.5
"""Logarithm of the odds for which a vote of median size is taken: of 0 to 10 what dealt three pairs' tokens best."""
_LEAST_MISSED, _LEAST_VARIANCE = 1e-6, 1e-2
"""Shares of the activations below the first are rounding; no image's logarithms vary by less than the second."""
_PAIRS, _APART = 8, 1.25
"""Places with both tokens, and standard deviations between two images, from which on what tokens miss tells them apart."""


@dataclass(frozen=True)
class Votes:
    """What tokens say of each other.

    Attributes:
        agreement: `[tokens, tokens]`, symmetric: positive where two share an image, negative where not, 0 where unknown.
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
        query, key, value = attention.parts(torch.cat([attention.prefix, tokens]))
        _, other_key, other_value = attention.parts(stand_ins)
    mixed = outputs.reshape(count, attention.heads, -1).transpose(0, 1)
    here = (places[:, None] == torch.arange(len(each), device=places.device)).to(outputs).T
    missing = each - here[:, :count].sum(dim=1) / images
    first = len(attention.prefix)
    found, stand_in = slice(first, first + count), slice(first + count, None)
    query = query[:, found]
    noise = _noise(query, (key[:, found], other_key), (value[:, found], other_value), mixed)
    weights = (query @ key.mT).exp()
    agreement, certainty = outputs.new_zeros(count, count), outputs.new_zeros(count, count)
    for one in range(count):
        system = weights[:, one, None] * (value.mT - mixed[:, one, :, None])
        amount = (weights[:, one, stand_in].square() * missing[places[count:]]).sum(dim=1)
        fixed = system[..., :first].sum(dim=-1) + system[..., first + one]
        floor = _ROUNDING * fixed.square().mean(dim=1)
        spread = amount[:, None, None] * noise + floor[:, None, None] * torch.eye(noise.shape[1]).to(noise)
        white = torch.linalg.solve_triangular(torch.linalg.cholesky(spread), system, upper=False).flatten(0, 1)
        fixed = white[:, :first].sum(dim=1) + white[:, first + one]
        others = torch.arange(len(tokens), device=places.device) != one
        white = white[:, first:][:, others]
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
    """Covariance of what a stand-in gets wrong, relative to its weight, `[heads, head width, head width]`.

    Keys and values `[heads, found, head width]` are those of the tokens found and of their own stand-ins.
    """
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
    amounts, agreement = torch.bincount(places, minlength=len(each)), cast.agreement
    tokens = [(places == place).nonzero().flatten() for place in range(len(each))]
    best, most = torch.zeros_like(places), -torch.inf
    for anchor in amounts.argsort(descending=True, stable=True)[:_ANCHORS].tolist():
        member = agreement.new_zeros(len(places), images)
        member[tokens[anchor]] = _dealt(torch.eye(len(tokens[anchor]), images).to(member), int(each[anchor]))
        for _ in range(_ROUNDS):
            before = member.clone()
            # One place after the other: all at once would swing between two cuts.
            for place, here in enumerate(tokens):
                if len(here):
                    member[here] = _dealt(agreement[here] @ member, int(each[place]))
            if torch.equal(member, before):
                break
        value = float((member * (agreement @ member)).sum())
        if value > most:
            best, most = member.argmax(dim=1), value
    return best


def clearer(missed: Tensor, places: Tensor, each: Tensor) -> Tensor | None:
    """Of two images, how much likelier each token is of the one with the larger gradients: `[found]`, logarithms of odds.

    A token of small gradient misses more of its activations. The logarithms of what an image's tokens miss are taken for
    Gaussian, of one variance; the means are fitted to the places of which both tokens are known, by expectation maximisation.

    Args:
        missed: `[found]`, share of its activations that a token misses.
        places: `[found]` int64.
        each: `[places]`, tokens that one image has there.

    Returns:
        None where the two images are too much alike in this, or too few places have both tokens.
    """
    size = missed.clamp(min=_LEAST_MISSED).log()
    both = [here for place in (each == 1).nonzero().flatten() if len(here := (places == place).nonzero().flatten()) == 2]
    if len(both) < _PAIRS:
        return None
    pairs = size[torch.stack(both)]
    less, more = pairs.sort(dim=1).values.mean(dim=0)
    variance = pairs.var().clamp(min=_LEAST_VARIANCE)
    for _ in range(_TURNS_OF_FIT):
        # How likely the first of a pair is the larger image's; the order of a pair would part images that are alike.
        first = (_odds(pairs[:, 0], less, more, variance) - _odds(pairs[:, 1], less, more, variance)).sigmoid()
        given, other = (first * pairs.T + (1 - first) * pairs.T.flip(0)).unbind()
        less, more = given.mean(), other.mean()
        apart = torch.stack([(pairs - less).square(), (pairs - more).square()])
        straight, turned = apart[0, :, 0] + apart[1, :, 1], apart[0, :, 1] + apart[1, :, 0]
        variance = ((first * straight + (1 - first) * turned).mean() / 2).clamp(min=_LEAST_VARIANCE)
    return _odds(size, less, more, variance) if more - less > _APART * variance.sqrt() else None


def _odds(size: Tensor, less: Tensor, more: Tensor, variance: Tensor) -> Tensor:
    odds: Tensor = ((size - more).square() - (size - less).square()) / (2 * variance)
    return odds


def images_by(odds: Tensor, cast: Votes, places: Tensor, each: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Deals tokens to two images by the odds of `clearer`, and by the votes of the tokens that these odds deal.

    Returns:
        `[found]` int64, 0 for the image of the larger gradients, as many tokens of a place as it has; and `[found]`, how sure.
    """
    evidence = odds if start is None else 1 - 2 * start.to(odds)
    if start is not None and odds @ evidence < 0:
        evidence = -evidence
    for _ in range(_TURNS):
        image = torch.zeros_like(places)
        for place in range(len(each)):
            here = (places == place).nonzero().flatten()
            if len(here):
                image[here] = _dealt(torch.stack([evidence[here], -evidence[here]], dim=1), int(each[place])).argmax(dim=1)
        vote = cast.agreement @ (1 - 2 * image).to(odds)
        evidence = odds + _USUAL_VOTE * vote / vote.abs().median()
    return image, evidence.abs()


def _dealt(scores: Tensor, each: int) -> Tensor:
    """Who gets which tokens of a place for the highest sum of scores, `each` at most: `[tokens, images]` of 0 and 1."""
    slots = scores.repeat_interleave(each, dim=1)
    rows, chosen = linear_sum_assignment(-slots.cpu().numpy())
    member = torch.zeros_like(scores)
    member[torch.as_tensor(rows), torch.as_tensor(chosen // each)] = 1
    return member


def exchanged(attention: FirstAttention, tokens: Tensor, outputs: Tensor, places: Tensor, image: Tensor) -> Tensor:
    """Exchanges tokens of one place between two images as long as the attention agrees better, once all tokens are found.

    Agreement is the sum over tokens of the logarithm of what their equation misses, so that those whose outputs are known
    badly count as little as they should.

    Args:
        attention: The first attention, in float64.
        tokens: `[tokens, width]`, before the attention, all of the batch.
        outputs: `[tokens, width]`.
        places: `[tokens]` int64.
        image: `[tokens]` int64, to start from.

    Returns:
        `[tokens]` int64.
    """
    with torch.no_grad():
        query, key, value = attention.parts(torch.cat([attention.prefix, tokens]))
    first = len(attention.prefix)
    weights = (query[:, first:] @ key.mT).softmax(dim=-1)
    mixed = outputs.reshape(len(outputs), attention.heads, -1).transpose(0, 1)
    image, here = image.clone(), places[:, None] == places
    for _ in range(len(tokens)):
        gain = torch.zeros_like(weights[0, :, first:])
        for one in range(len(tokens)):
            system = (weights[:, one, None] * (value.mT - mixed[:, one, :, None])).flatten(0, 1)
            mine = image == image[one]
            missed, system = system[:, :first].sum(dim=1), system[:, first:]
            missed = missed + system[:, mine].sum(dim=1)
            products, along = system.T @ system, system.T @ missed
            sizes = products.diagonal()
            change = sizes[:, None] + sizes - 2 * products + 2 * (along - along[:, None])
            error = missed.square().sum()
            better = (error / (error + change).clamp(min=1e-6 * error)).log()
            better[one] = 0
            gain += better * (mine[:, None] & ~mine)
        gain = torch.where(here & (image[:, None] != image), gain + gain.T, -torch.ones_like(gain))
        if gain.max() <= 0:
            break
        pair = torch.tensor(divmod(int(gain.argmax()), len(tokens)), device=image.device)
        image[pair] = image[pair.flip(0)]
    return image
