"""The model plug-in of the guide: built, attacked, and asked of by name."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from privbench.core import MODELS, UserError, build_defense, resolve_defense
from privbench.models import load_victim, register_module, resolve_victim

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "own-model.md"
NONE = build_defense(resolve_defense("none"))


@pytest.fixture
def linear() -> Iterator[str]:
    (code,) = re.findall(r"```python\n(from torch import nn.*?)```", GUIDE.read_text(encoding="utf-8"), re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    MODELS.register("linear", names["linear"])
    yield "linear"
    MODELS.unregister("linear")


def test_the_guides_plug_in_is_a_victim(linear: str) -> None:
    victim = load_victim(resolve_victim(linear, "random", NONE), NONE, generator=torch.Generator())
    assert victim(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert victim.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    assert victim.patch_size is None
    with pytest.raises(UserError, match="not a vision transformer that cuts the image itself"):
        victim.parts()


class _Looks(torch.nn.Linear):
    """A module whose pass depends on values."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flat = images.flatten(1)
        return super().forward(flat if float(flat.sum()) >= 0 else -flat)


def test_a_module_that_looks_at_values_is_not_refused_for_that(tmp_path: Path) -> None:
    name, weights = register_module(_Looks(3 * 8 * 8, 4), image_size=8, folder=tmp_path)
    try:
        victim = load_victim(resolve_victim(name, str(weights), NONE), NONE, generator=torch.Generator())
        assert victim(torch.zeros(1, 3, 8, 8)).shape == (1, 4)
    finally:
        MODELS.unregister(name)


def test_a_users_module_with_tensors_of_its_own_is_a_victim(tmp_path: Path) -> None:
    name, weights = register_module(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 4)), image_size=8, folder=tmp_path
    )
    try:
        victim = load_victim(resolve_victim(name, str(weights), NONE), NONE, generator=torch.Generator())
        assert victim(torch.zeros(2, 3, 8, 8)).shape == (2, 4)
    finally:
        MODELS.unregister(name)
