"""Scores of saved predictions, the report next to the paper's tables, charts."""
