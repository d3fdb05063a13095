"""The model of a run: built, started, saved."""
