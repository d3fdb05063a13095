"""Scores of saved predictions, the report beside the paper's tables, charts."""
