"""Names of the measures of `owl2 inspect`, for a command line that has not imported torch yet."""

MEASURES = ("swap", "drift", "conflict", "alignment", "forgetting")
"""A file of a figure, and one of a table, each."""
