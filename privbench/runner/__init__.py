"""One case from what a user asks for to a record: resolved, prepared, attacked on devices, scored, verified."""
