"""Two images of unlike gradients: what a token misses of its activations tells whose it is."""

import pytest
import torch
from torch import Tensor

from privbench.token_search.membership import Votes, clearer, images_by

PLACES = 20


def _missed(less: float, more: float) -> tuple[Tensor, Tensor, Tensor]:
    """What the tokens of two images miss, of places 5 on of one of them alone: `[tokens]` each of missed, places, image."""
    noise = torch.randn(2 * PLACES, generator=torch.Generator().manual_seed(0))
    missed = torch.tensor([less, more]).repeat_interleave(PLACES) * (0.5 * noise).exp()
    kept = torch.ones(2 * PLACES, dtype=torch.bool)
    kept[[15, 16, PLACES + 17, PLACES + 18, PLACES + 19]] = False
    places, image = torch.arange(PLACES).repeat(2), torch.arange(2).repeat_interleave(PLACES)
    return missed[kept], places[kept], image[kept]


EACH = torch.ones(PLACES)


def test_tokens_are_dealt_by_what_they_miss_also_where_a_place_has_one() -> None:
    missed, places, image = _missed(1e-5, 1e-3)
    odds = clearer(missed, places, EACH)
    assert odds is not None
    dealt, sure = images_by(odds, Votes(torch.zeros(len(image), len(image)) + 1e-9), places, EACH)
    assert torch.equal(dealt, image)
    assert (sure > 0).all()


def test_votes_decide_where_a_token_misses_as_much_as_either_image_s() -> None:
    missed, places, image = _missed(1e-5, 1e-3)
    lone = int(((places == 18) & (image == 0)).nonzero())
    missed[lone] = 1.05e-4
    agreement = 2.0 * (image[:, None] == image) - 1
    odds = clearer(missed, places, EACH)
    assert odds is not None
    assert odds[lone] < 0
    assert torch.equal(images_by(odds, Votes(agreement), places, EACH)[0], image)


@pytest.mark.parametrize("pair", [(1e-5, 1e-5), (1e-5, 1.5e-5)])
def test_images_that_are_alike_in_this_are_left_to_the_votes(pair: tuple[float, float]) -> None:
    missed, places, _ = _missed(*pair)
    assert clearer(missed, places, EACH) is None


def test_too_few_places_with_both_tokens_tell_nothing() -> None:
    missed, places, image = _missed(1e-5, 1e-3)
    kept = (image == 0) | (places < 5)
    assert clearer(missed[kept], places[kept], EACH) is None
