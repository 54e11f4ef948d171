"""Fixtures for the whole suite."""

import os
import signal
from pathlib import Path

import pytest
import torch

from privbench.computing.interrupt import SIGNALS
from privbench.models import cards

# The suite's tensors are small: a second thread waits more than it works, above all beside other processes.
torch.set_num_threads(1)

# A shell that starts the suite in the background ignores Ctrl-C, and `nohup` a hang-up. Processes inherit that, and tests that
# send them such a signal would wait in vain. A handler that does nothing is inherited by none.
for _number in SIGNALS:
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)


UNIT_ROOMS = frozenset(
    {"analysis", "claims", "closed_form", "core", "data", "inversion", "jigsaw", "models", "scoring", "store", "token_search"}
)
"""Folders whose tests are unit tests unless they say otherwise; all others are integration tests."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts every test in one of the three tiers."""
    for item in items:
        if item.get_closest_marker("nightly") is None and item.get_closest_marker("integration") is None:
            item.add_marker("unit" if item.path.parent.name in UNIT_ROOMS else "integration")


@pytest.fixture(autouse=True)
def no_victim_in_a_unit_test(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit test that loads an embedded victim fails: it belongs to the integration tests."""
    if request.node.get_closest_marker("unit") is None:
        return

    def refuse(*_: object) -> None:
        pytest.fail("a unit test loads an embedded victim; mark it with pytest.mark.integration")

    monkeypatch.setattr(cards, "as_file", refuse)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images and weights for development, outside the repository; PRIVBENCH_SHARED_DATA names another place."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PRIVBENCH_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"the development data is not here: {folder} (set PRIVBENCH_SHARED_DATA)")
    return folder


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded CPU generator."""
    return torch.Generator().manual_seed(20_221)
