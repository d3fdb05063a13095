"""Training: which parts a stage trains, the optimizer, and the loop."""
