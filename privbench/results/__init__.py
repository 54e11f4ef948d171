"""Finished cases as values: what `privbench.run` and `privbench.load_results` return."""

from privbench.analysis.leaderboard import require_ending
from privbench.results.results import Results
from privbench.results.written import Written

__all__ = ["Results", "Written", "require_ending"]
