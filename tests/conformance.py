"""What tests share with the rules of `privbench check`: small client updates, and the walk that looks for a private image."""

from collections.abc import Iterator

import pytest

from privbench.conformance import harness
from privbench.conformance.harness import Update, client_update, round_trip, simulated_gradients, some_images
from privbench.conformance.seal import holds_image, reachable
from tests.runner.plugin.privbench_test_plugin import registered, vit

__all__ = [
    "Update",
    "client_update",
    "holds_image",
    "reachable",
    "round_trip",
    "simulated_gradients",
    "small_clients",
    "some_images",
]


@pytest.fixture
def small_clients(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The clients of the rules have `test-vit` in place of the embedded architecture: the same code, ten times cheaper."""
    with registered():
        monkeypatch.setattr(harness, "DEFAULT_MODEL", vit.name)
        yield
