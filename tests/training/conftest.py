"""A small victim, so that training it costs next to nothing, in float32 on every processor."""

from collections.abc import Iterator

import pytest
import torch

from tests.runner.plugin.privbench_test_plugin import registered


@pytest.fixture(autouse=True)
def test_victim() -> Iterator[None]:
    """`test-vit` is registered as long as a test runs."""
    with registered():
        yield


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are compared to more digits than bf16 has, which some processors train in."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
