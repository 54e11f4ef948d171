"""Settings by the input's size: what is given stands, what is not follows the size."""

import pytest

from privbench.adversary import simulate
from privbench.attacks.adjoint_matching import AdjointMatching
from privbench.attacks.adjoint_settings import TUNED, settings_for
from tests.conformance import client_update


def test_small_images_trust_their_priors_less_than_photos() -> None:
    small, large = (settings_for(size, free=True) for size in TUNED)
    for name in ("total_variation", "total_variation_end", "patch_prior", "chroma", "squared_norm"):
        assert getattr(small, name) < getattr(large, name), name
    assert small.adjoint_speed > large.adjoint_speed and small.emphasis > large.emphasis


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("given", [{}, {"steps": 3}, {"steps": 3, "chroma": 0.0, "learning_rate": 0.5}])
def test_what_is_given_stands(given: dict[str, float], free: bool) -> None:
    model = simulate(client_update().observation).model
    found, own = AdjointMatching(**given)._settings(model, free=free), settings_for(32, free=free)
    for name in ("steps", "learning_rate", "chroma", "squared_norm", "total_variation"):
        assert getattr(found, name) == given.get(name, getattr(own, name)), name
