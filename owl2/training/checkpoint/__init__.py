"""Training checkpoints: written, found, read."""
