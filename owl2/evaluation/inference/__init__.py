"""Answers and likelihoods of a model, for the prompts of a benchmark."""
