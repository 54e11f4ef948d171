"""Small, fast cases for the tests of this room."""

from tests.runner.acting import acting
from tests.runner.fixtures import compute, one_thread, small_case, test_attacks

__all__ = ["acting", "compute", "one_thread", "small_case", "test_attacks"]
