"""The model plug-in of the guide: built, attacked, and asked of by name."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from privbench.core import MODELS, UserError, build_defense, resolve_defense
from privbench.models import load_victim, resolve_victim

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
