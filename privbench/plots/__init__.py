"""Figures, drawn by matplotlib's Agg without pyplot's global state, all in one style.

One module per figure: a function from a table of cases to a table of points, one from points to a figure, and `draw`, which
`registry` names. `case_pictures` has the pictures of a run and of the report page; how all of them look is the room `drawing`.
"""
