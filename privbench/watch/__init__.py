"""Who watches a run, besides the terminal: the page that shows it live, the display of a notebook, experiment trackers."""

from privbench.watch.watching import watching

__all__ = ["watching"]
