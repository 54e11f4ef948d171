"""Small, fast cases for the tests of this room."""

from tests.runner.fixtures import compute, one_thread, small_case, test_attacks
from tests.sweep.faults import options, undisturbed

__all__ = ["compute", "one_thread", "options", "small_case", "test_attacks", "undisturbed"]
