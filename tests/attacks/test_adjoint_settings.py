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
    assert small.adjoint_speed > large.adjoint_speed
    assert small.emphasis > large.emphasis


def test_photos_in_a_batch_are_told_apart_by_stronger_priors() -> None:
    one, several = (settings_for(224, free=True, images=images) for images in (1, 4))
    assert several.total_variation > one.total_variation
    assert several.chroma > one.chroma
    assert settings_for(32, free=True, images=4) == settings_for(32, free=True)


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("given", [{}, {"steps": 3}, {"steps": 3, "chroma": 0.0, "learning_rate": 0.5}])
def test_what_is_given_stands(given: dict[str, float], free: bool) -> None:
    model = simulate(client_update().observation).model
    found, own = AdjointMatching(**given)._settings(model, free=free), settings_for(32, free=free)
    for name in ("steps", "learning_rate", "chroma", "squared_norm", "total_variation"):
        assert getattr(found, name) == given.get(name, getattr(own, name)), name
