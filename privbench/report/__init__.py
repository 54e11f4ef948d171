"""The report page of a folder of results, and the static site around it."""
