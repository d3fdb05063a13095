"""Samples of a stage, encoded and batched."""
