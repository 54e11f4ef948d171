"""Small, fast cases for the tests of this room."""

from tests.runner.fixtures import compute, one_thread, small_case, test_attacks

__all__ = ["compute", "one_thread", "small_case", "test_attacks"]
