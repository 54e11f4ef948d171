"""Finished cases, scores and checks as tables of a terminal, a file for each kind."""
