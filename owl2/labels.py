"""The label of what is not learnt."""

IGNORE_INDEX = -100
"""Label of a token that the loss passes over: padding, visual rows, prompts. It is cross_entropy's own default."""
