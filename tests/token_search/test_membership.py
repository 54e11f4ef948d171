"""Whose a token is, by what the attention of each image would make of it."""

import pytest
import torch

from privbench.adversary import simulate
from privbench.closed_form.embedding import PatchEmbedding
from privbench.core.patches import to_patches
from privbench.token_search.attention import FirstAttention
from privbench.token_search.membership import dealt_by, first_deal, misfits
from tests.attacks.closed_forms import update

ONE_EACH = torch.ones(4)


def test_a_place_gives_each_image_what_it_has_there_for_the_least_sum() -> None:
    costs = torch.tensor([[0.0, 1.0], [0.0, 5.0], [3.0, 2.0], [2.0, 9.0], [1.0, 4.0]])
    places = torch.tensor([0, 0, 1, 2, 2])
    # Both tokens of place 0 are nearer to the first image; the one that loses least by it goes to the second.
    assert dealt_by(costs, places, torch.tensor([1, 1, 2])).tolist() == [1, 0, 1, 0, 0]


def test_the_first_deal_parts_tokens_of_unlike_gradients() -> None:
    missed = torch.tensor([1e-6, 1e-3, 2e-3, 2e-6, 3e-6, 4e-3])
    places = torch.tensor([0, 0, 1, 1, 2, 3])
    assert first_deal(missed, places, ONE_EACH, 2).tolist() == [0, 1, 1, 0, 0, 1]


def test_of_three_images_no_one_gets_two_tokens_of_a_place() -> None:
    image = first_deal(torch.full((12,), 1e-5), torch.arange(4).repeat(3), ONE_EACH, 3)
    assert all(sorted(image[place::4].tolist()) == [0, 1, 2] for place in range(4))


@pytest.mark.integration
def test_the_attention_of_its_own_image_explains_a_token_and_that_of_another_does_not() -> None:
    observation, secret = update(batch=2)
    model = simulate(observation).model
    attention, embedding = FirstAttention.of(model), PatchEmbedding.of(model)
    patches = to_patches((secret.images.double() - model.mean) / model.std, 4).flatten(2)
    images = patches @ embedding.weight.T + embedding.bias + embedding.positions
    first = len(attention.prefix)
    with torch.no_grad():
        outputs = [attention.outputs(torch.cat([attention.prefix, image]))[first:] for image in images]
    stands = torch.arange(64).repeat(2)[:, None].expand(-1, 2)
    found = misfits(attention, images.flatten(0, 1), torch.cat(outputs), images, stands)
    owner = torch.arange(2).repeat_interleave(64)
    own, other = found.gather(1, owner[:, None]), found.gather(1, 1 - owner[:, None])
    assert own.max() < -40
    assert other.min() > -10
