"""Runs: cases resolved from what a user asks for, computed, stored, resumed, and gathered into a leaderboard.

The modules are imported one by one (`privbench.runs.execute.run_case`), so that the leaderboard does not wait for timm.
"""
