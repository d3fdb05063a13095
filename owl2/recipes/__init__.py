"""The recipes that come with the package, by name: `small/pretrain`, `mixtures/table8`, ..."""

import os
from difflib import get_close_matches
from pathlib import Path

from owl2.spelling import did_you_mean

_FOLDER = Path(__file__).parent


def recipe_names() -> list[str]:
    """The names of all recipes, those of training first."""
    return _names(grids=False)


def grid_names() -> list[str]:
    """Names of all grids of `owl2 ablate`."""
    return _names(grids=True)


def _names(grids: bool) -> list[str]:
    files = [file for file in _FOLDER.rglob("*.yaml") if _is_grid(file) == grids]
    found = [file.relative_to(_FOLDER).with_suffix("").as_posix() for file in files]
    return sorted(found, key=lambda name: ("/" in name, name))


def _is_grid(file: Path) -> bool:
    return "\nfactors:\n" in file.read_text(encoding="utf-8")


def find_grid(name: str | os.PathLike[str]) -> Path:
    """The file of a grid: a path, or the name of one of the package.

    Raises:
        ValueError: There is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.as_posix() in grid_names():
        return _FOLDER / f"{path.as_posix()}.yaml"
    hint = did_you_mean(_nearest(path, grid_names())).rstrip() or f"the package has {', '.join(grid_names())}"
    raise ValueError(f"there is no grid {os.fspath(name)}: {hint}")


def find_recipe(name: str | os.PathLike[str]) -> Path:
    """The file of a recipe.

    Args:
        name: Path of a file, or name of a recipe of the package; a file of that name takes precedence.

    Raises:
        ValueError: There is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    names = recipe_names()
    if path.as_posix() in names:
        return _FOLDER / f"{path.as_posix()}.yaml"
    hint = did_you_mean(_nearest(path, names))
    raise ValueError(f"there is no recipe {os.fspath(name)}: {hint}`owl2 recipes` lists those of the package")


def _nearest(path: Path, names: list[str]) -> list[str]:
    """The names that are spelt like a path, by all of it or else by its last part; none if no name is."""
    wanted = path.with_suffix("") if path.suffix in (".yaml", ".yml") else path
    near = get_close_matches(wanted.as_posix().removeprefix("recipes/"), names, 3)
    if not near:
        last = {each.rpartition("/")[2] for each in names}
        close = get_close_matches(wanted.name, last, 1)
        near = [each for each in names if each.rpartition("/")[2] in close]
    return near


def is_of_package(file: Path) -> bool:
    """Whether a file is one of the package's recipes, beside which nobody keeps data."""
    return file.resolve().is_relative_to(_FOLDER.resolve())


def description(name: str) -> str:
    """The first sentence of the comment at the head of a recipe of the package."""
    words = []
    for line in find_recipe(name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        words.append(line.removeprefix("#").strip())
    return _first_sentence(" ".join(words))


def _first_sentence(text: str) -> str:
    end = text.find(". ")
    return text if end < 0 else text[: end + 1]
