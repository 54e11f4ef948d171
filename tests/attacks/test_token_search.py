"""Token search: two photos from one update, and one line where it does not apply."""

from itertools import permutations
from typing import Any

import pytest
import torch

from privbench.attacks.token_search import TokenSearch
from privbench.core import UserError
from tests.attacks.closed_forms import attacked, psnr, update


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({}, "takes batches of 2 images and more, given 1; choose --attack subspace"),
        ({"batch": 3}, "needs a width of 248 for 195 tokens of 3 images and 48 pixels of a patch, given 192"),
        ({"batch": 2, "defense": "no-pe"}, "a learned position row for each patch"),
        ({"batch": 2, "model": "cnn_mini_32", "weights": "random"}, "transformer"),
    ],
)
def test_what_does_not_apply_is_refused_in_one_line(given: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as refused:
        attacked(TokenSearch(), update(**given)[0])
    assert "\n" not in str(refused.value)


def test_an_update_without_the_first_mlp_is_refused() -> None:
    observation, _ = update(batch=2)
    kept = {name: value for name, value in observation.update.items() if "blocks.0.mlp" not in name}
    with pytest.raises(UserError, match=r"needs the update of .*mlp"):
        attacked(TokenSearch(), observation.with_gradients(kept))


def test_noise_leaves_grey_and_says_so() -> None:
    observation, _ = update("gradient-noise:std=0.1", batch=2)
    result = attacked(TokenSearch(rounds=1, starts=1), observation)
    assert result.losses["found"] == 0
    assert "row-space-does-not-fit" in result.flags


@pytest.mark.nightly
def test_two_photos_come_back_from_one_update() -> None:
    observation, secret = update(batch=2)
    result = attacked(TokenSearch(), observation)
    scores = [[psnr(one, other) for other in secret.images] for one in result.images]
    assert max(min(scores[i][j] for i, j in enumerate(order)) for order in permutations(range(2))) > 60
    assert result.losses["missing"] == 0
    assert result.flags == ()
    again = attacked(TokenSearch(), observation)
    assert torch.equal(again.images, result.images)
