"""Made-up pictures and a machine without network."""

import socket
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

Picture = Callable[..., Image.Image]


@pytest.fixture
def picture() -> Picture:
    """A factory of RGB noise: `picture(width, height, seed=...)`."""

    def make(width: int = 40, height: int = 40, *, seed: int = 0) -> Image.Image:
        noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return Image.fromarray(noise)

    return make


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Refuses every connection; the list collects what was attempted."""
    attempts: list[str] = []

    def refuse(*arguments: Any, **options: Any) -> None:
        attempts.append(repr(arguments))
        raise OSError("the network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return attempts
