"""An attack that does what a test says, and what tests of cases look at."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from privbench.core import (
    ATTACKS,
    Attack,
    Case,
    Observation,
    Progress,
    Reconstruction,
    Secret,
)
from privbench.runner.context import load_case

CPU = torch.device("cpu")

Act = Callable[[Observation, torch.Generator, Progress], Reconstruction]


class Acting(Attack):
    """Does what the test says."""

    name: ClassVar[str] = "test-acting"
    act: ClassVar[Act | None] = None

    def run(self, observation: Observation, *, generator: torch.Generator, progress: Progress) -> Reconstruction:
        act = type(self).act
        assert act is not None
        return act(observation, generator, progress)


@pytest.fixture
def acting(test_attacks: None) -> Iterator[type[Acting]]:
    ATTACKS.register(Acting.name, Acting)
    yield Acting
    ATTACKS.unregister(Acting.name)


def pixels(path: Path) -> Any:
    with Image.open(path) as picture:
        return np.asarray(picture)


def secrets(case: Case) -> list[Secret]:
    prepared = load_case(case, CPU)
    return [prepared.observe(batch)[1] for batch in range(prepared.batches)]
