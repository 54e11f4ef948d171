"""Updates from outside: files of several formats and names of several libraries become one `Observation`."""

from privbench.updates.assemble import UpdateSource, observation_of, victim_of
from privbench.updates.flower import keep_update
from privbench.updates.naming import in_names_of_timm
from privbench.updates.reading import named_by_order, read_tensors

__all__ = ["UpdateSource", "in_names_of_timm", "keep_update", "named_by_order", "observation_of", "read_tensors", "victim_of"]
