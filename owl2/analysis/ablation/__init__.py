"""Ablations: a grid over recipes, run cell by cell, and the table, tests and plots of what came out."""
