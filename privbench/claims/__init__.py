"""Claims of the field: written as hypotheses, judged by what was measured, shown as a page."""
