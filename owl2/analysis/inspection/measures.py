"""Names of the measures of `owl2 inspect`, for a command line that has not imported torch yet."""

MEASURES = ("swap", "drift", "conflict", "alignment", "forgetting")
"""Each has a figure and a table of its name."""
