"""Names of models in figures and tables."""

from collections.abc import Sequence
from pathlib import Path


def model_names(directories: Sequence[str | Path]) -> list[str]:
    """Names that tell models apart: the end of each directory's path that none before it has."""
    names: list[str] = []
    for directory in directories:
        names.append(_name(directory, names))
    return names


def _name(directory: str | Path, taken: Sequence[str]) -> str:
    parts = Path(directory).resolve().parts
    for count in range(1, len(parts)):
        name = "/".join(parts[-count:])
        if name != "checkpoint" and name not in taken:
            return name
    return f"{directory} ({len(taken)})"
