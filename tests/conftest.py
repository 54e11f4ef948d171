"""Fixtures for the whole suite."""

import os
from pathlib import Path

import pytest
import torch

# The suite's tensors are small: a second thread waits more than it works, above all beside other processes.
torch.set_num_threads(1)


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
