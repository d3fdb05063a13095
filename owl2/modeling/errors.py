"""The error of a checkpoint that does not fit."""


class CheckpointError(ValueError):
    """A checkpoint does not fit the model: the message names the keys."""
