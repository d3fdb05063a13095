"""Measuring the model."""
