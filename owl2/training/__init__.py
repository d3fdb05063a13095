"""Training: the trained parts of a stage, the optimiser, and the loop."""
