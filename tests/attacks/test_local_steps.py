"""Matching for clients that train: both ways are tried, and an interrupted one goes on where it was."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from privbench.core import ATTACKS, LocalTraining, Progress
from tests.conformance import some_images
from tests.test_client_training import client_that_trains


class _Stops(Progress):
    """Keeps every state, and stops at one."""

    def __init__(self, kept: Mapping[str, Any] | None = None, at: int = 0) -> None:
        self.kept, self.at = kept, at
        self.steps: list[int] = []

    def report(self, step: int, total: int, phase: str, *losses: Mapping[str, float]) -> None:
        self.steps.append(step)

    def save(self, state: Mapping[str, Any]) -> None:
        self.kept = {name: dict(part) for name, part in state.items()}
        if self.steps[-1] == self.at:
            raise KeyboardInterrupt

    def restore(self) -> Mapping[str, Any] | None:
        return self.kept


@pytest.mark.nightly
def test_both_ways_are_continued_from_their_own_states() -> None:
    _, observation, _ = client_that_trains(LocalTraining(steps=2), some_images(1))
    attack = ATTACKS.get("local-steps")(steps=20)
    whole = attack(observation, generator=torch.Generator().manual_seed(0))
    stopped = _Stops(at=30)  # half of the second way
    with pytest.raises(KeyboardInterrupt):
        attack(observation, generator=torch.Generator().manual_seed(0), progress=stopped)
    again = _Stops(stopped.kept)
    found = attack(observation, generator=torch.Generator().manual_seed(0), progress=again)
    assert again.steps == [40]
    assert torch.equal(found.images, whole.images)
    assert found.flags == whole.flags
