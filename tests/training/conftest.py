"""A small victim, so that training it costs next to nothing."""

from collections.abc import Iterator

import pytest

from tests.run.plugin.privbench_test_plugin import registered


@pytest.fixture(autouse=True)
def test_victim() -> Iterator[None]:
    """`test-vit` is registered as long as a test runs."""
    with registered():
        yield
