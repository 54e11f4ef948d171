"""Records and reports by which claims are judged."""

from tests.claims.judging import make, template, utility

__all__ = ["make", "template", "utility"]
