"""Training: what trains in a stage, its optimiser, and the loop."""
