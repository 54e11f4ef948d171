"""One case, or an ensemble of them, from a resolved case to a record: loaded once, attacked, scored, drawn, verified."""
