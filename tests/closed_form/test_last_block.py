"""The last block undone: labels, class tokens and attended means of every image, beside a forward pass of the truth."""

from typing import Any

import pytest
import torch
from torch import Tensor

from privbench.adversary import simulate
from privbench.closed_form.last_block import last_block
from privbench.data import open_images
from privbench.sample_features import FeatureError, sample_features
from tests.attacks.clients import observe_client
from tests.attacks.closed_forms import update

pytestmark = pytest.mark.integration


def _photos(count: int) -> Tensor:
    return open_images("photos").load(list(range(count)), 32)[0]


def _seen(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """The class tokens behind the last block's first LayerNorm, and the tokens' means by what they attend to."""
    block = model.network.blocks[-1]
    kept: list[Tensor] = []
    hook = block.attn.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    with torch.no_grad():
        model(images)
        hook.remove()
        tokens = kept[0]
        query, key, _ = block.attn.qkv(tokens).unflatten(-1, (3, block.attn.num_heads, -1)).movedim(-3, 0).transpose(-3, -2)
        attended = (query[:, :, :1] @ key.mT * block.attn.scale).softmax(dim=-1)
    return tokens[:, 0], (attended @ tokens[:, None])[:, :, 0]


def _nearest(found: Tensor, true: Tensor) -> Tensor:
    return torch.cdist(found.flatten(1).double(), true.flatten(1).double()).argmin(dim=1)


def test_every_image_is_separated() -> None:
    observation, secret = update(batch=4)
    found = last_block(simulate(observation).model, observation)
    assert found is not None
    tokens, means = _seen(simulate(observation).model, secret.images)
    mine = _nearest(found.token, tokens)
    assert sorted(mine.tolist()) == [0, 1, 2, 3]
    assert torch.equal(found.labels, secret.labels[mine])
    assert (found.token - tokens[mine]).norm(dim=1).max() < 1e-4 * tokens.norm(dim=1).max()
    assert (found.values - means[mine]).norm(dim=(1, 2)).max() < 1e-4 * means.norm(dim=(1, 2)).max()
    with torch.no_grad():
        chances = simulate(observation).model(secret.images).softmax(dim=1)
    expected = (chances - torch.eye(10)[secret.labels]) / 4
    assert (found.residuals - expected[mine]).abs().max() < 1e-5
    assert found.error.max() < 1e-3


def test_labels_that_repeat_are_told() -> None:
    observation, _ = observe_client(images=_photos(3), labels=[7, 2, 7])
    found = last_block(simulate(observation).model, observation)
    assert found is not None
    assert found.labels.tolist() == [2, 7, 7]


@pytest.mark.parametrize(
    "given",
    [
        {"defense": "gradient-noise:std=0.001"},
        {"model": "cnn_mini_32", "weights": "random"},
    ],
)
def test_where_it_does_not_apply_nothing_is_said(given: dict[str, Any]) -> None:
    observation, _ = update(batch=2, **given)
    assert last_block(simulate(observation).model, observation) is None


def test_a_partial_update_says_nothing() -> None:
    observation, _ = update(batch=2)
    kept = {name: value for name, value in observation.update.items() if "blocks.2.mlp" not in name}
    assert last_block(simulate(observation).model, observation.with_gradients(kept)) is None


def test_features_fit_the_true_images_alone_and_in_their_order() -> None:
    observation, secret = update(batch=3)
    simulation = simulate(observation)
    features = sample_features(simulation, observation)
    assert features is not None
    error = FeatureError(simulation)
    ordered = secret.images[secret.labels.argsort(stable=True)]
    candidates = torch.stack([ordered, ordered.flip(0), torch.full_like(ordered, 0.5)])
    true, swapped, grey = error(candidates, features.context).tolist()
    assert true < 1e-6
    assert min(swapped, grey) > 0.5
    # An image of which nothing is known takes no part.
    blind = {**features.context, "feature-units": torch.full_like(features.units, torch.inf)}
    assert error(candidates, blind).tolist() == [0, 0, 0]
