"""Figures, drawn by matplotlib's Agg without pyplot's global state, all in one style.

One module per figure: a function from a table of cases to a table of points, one from points to a figure, and `draw`, which
`registry` names. `drawing` has the pictures of a run and of the report page.
"""
