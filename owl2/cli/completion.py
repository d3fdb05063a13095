"""What the shell completes beside options: recipes of the package, YAML files, benchmarks."""

from collections.abc import Iterator
from glob import escape, iglob
from pathlib import Path


def complete_recipe(incomplete: str) -> list[str]:
    """Recipes of training by name, and YAML files."""
    return [*_names(incomplete, of_mixtures=False), *_yaml_files(incomplete)]


def complete_mixture(incomplete: str) -> list[str]:
    """Mixtures by name, and YAML files."""
    return [*_names(incomplete, of_mixtures=True), *_yaml_files(incomplete)]


def complete_grid(incomplete: str) -> list[str]:
    """Grids of `owl2 ablate`, and YAML files."""
    from owl2.recipes import grid_names

    return [*(name for name in grid_names() if name.startswith(incomplete)), *_yaml_files(incomplete)]


def complete_any_recipe(incomplete: str) -> list[str]:
    """All recipes of the package by name."""
    return _names(incomplete, of_mixtures=False) + _names(incomplete, of_mixtures=True)


def complete_tasks(incomplete: str) -> list[str]:
    """Completes the last of several benchmarks separated by commas."""
    from owl2.evaluation.tasks import TASKS

    before, comma, last = incomplete.rpartition(",")
    given = before.split(",")
    return [f"{before}{comma}{name}" for name in TASKS if name.startswith(last) and name not in given]


def _names(incomplete: str, of_mixtures: bool) -> list[str]:
    from owl2.recipes import recipe_names

    names = [name for name in recipe_names() if name.startswith(incomplete)]
    return [name for name in names if name.startswith("mixtures/") == of_mixtures]


def _yaml_files(incomplete: str) -> Iterator[str]:
    for path in sorted(iglob(f"{escape(incomplete)}*")):
        if Path(path).is_dir():
            yield f"{path}/"
        elif path.endswith((".yaml", ".yml")):
            yield path
