"""The reports of a run, and what watches over it."""
