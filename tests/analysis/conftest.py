"""Small, fast cases for the tests of this room."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from privbench.core import Case, Record
from tests.runner.fixtures import compute, one_thread, small_case, test_attacks

__all__ = ["compute", "one_thread", "small_case", "test_attacks"]


@pytest.fixture(scope="session")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the one case that the tests of this room copy."""
    return tmp_path_factory.mktemp("computed") / "template"


@pytest.fixture
def template(small_case: Callable[..., Case], compute: Callable[..., Record], computed: Path, tmp_path: Path) -> Record:
    """The record of a small case, whose folder lies in `template`; computed once, copied for each test."""
    record = compute(small_case(), output=computed)
    shutil.copytree(computed, tmp_path / "template")
    return record
