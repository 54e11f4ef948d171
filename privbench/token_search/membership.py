"""Whose a token is: the attention mixes the tokens of one image and of no other.

Given the patches of an image, the attention says what its heads put out for a token if that is the image's. A token is dealt
to the image whose answer is nearest to what the heads did put out; the patches that an image then lacks are solved for, and the
tokens dealt anew. From any deal that ends after two or three turns. Ours; measured in docs/research/token-search.md.
"""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from privbench.token_search.attention import FirstAttention

__all__ = ["dealt_by", "first_deal", "misfits"]

_TINY = 1e-30
"""Squared error below which a token's outputs are taken as explained to the last bit."""


def misfits(attention: FirstAttention, tokens: Tensor, outputs: Tensor, images: Tensor, stands: Tensor) -> Tensor:
    """How badly each image explains what the heads put out for a token, the token in the place of one of its patches.

    Args:
        attention: The first attention, in float64.
        tokens: `[found, width]`, before the attention.
        outputs: `[found, width]`, what the heads put out for them.
        images: `[images, patches, width]`, all tokens of each image before the attention, as far as they are known.
        stands: `[found, images]` int64, which patch of an image a token takes the place of.

    Returns:
        `[found, images]`, logarithms of the squared error.
    """
    mixed = outputs.reshape(len(outputs), attention.heads, -1).transpose(0, 1)
    every, first = torch.arange(len(tokens), device=tokens.device), len(attention.prefix)
    with torch.no_grad():
        query, own_key, own_value = attention.parts(tokens)
        logarithms = []
        for one, image in enumerate(images):
            _, key, value = attention.parts(torch.cat([attention.prefix, image]))
            scores, own = query @ key.mT, first + stands[:, one]
            scores[:, every, own] = (query * own_key).sum(dim=-1)
            weights = scores.softmax(dim=-1)
            itself = weights[:, every, own][..., None] * own_value
            weights[:, every, own] = 0
            error = (weights @ value + itself - mixed).square().sum(dim=(0, 2))
            logarithms.append(error.clamp(min=_TINY).log())
    return torch.stack(logarithms, dim=1)


def dealt_by(costs: Tensor, places: Tensor, each: Tensor) -> Tensor:
    """Deals the tokens of every place for the least sum of costs.

    Args:
        costs: `[found, images]`.
        places: `[found]` int64.
        each: `[places]`, tokens that one image has there.

    Returns:
        `[found]` int64, the image of each token.
    """
    image = torch.zeros_like(places)
    for place in sorted(set(places.tolist())):
        here, slots = (places == place).nonzero().flatten(), int(each[place])
        rows, chosen = linear_sum_assignment(costs[here].repeat_interleave(slots, dim=1).cpu().numpy())
        image[here[torch.as_tensor(rows)]] = torch.as_tensor(chosen // slots, device=image.device)
    return image


def first_deal(missed: Tensor, places: Tensor, each: Tensor, images: int) -> Tensor:
    """A deal to start from: tokens of small gradients, which miss more of their activations, to the later images.

    Args:
        missed: `[found]`, share of its activations that a token misses.
        places: `[found]` int64.
        each: `[places]`, tokens that one image has there.
        images: Number of images.

    Returns:
        `[found]` int64, the image of each token.
    """
    rank = missed.argsort(stable=True).argsort().to(missed) / len(missed) * images
    middle = torch.arange(images, device=missed.device).to(missed) + 0.5
    return dealt_by((rank[:, None] - middle).abs(), places, each)
