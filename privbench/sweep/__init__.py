"""Many cases: a study expanded by its axes, computed by this process, by local processes or by Ray."""
