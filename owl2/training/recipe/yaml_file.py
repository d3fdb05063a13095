"""Recipes as YAML files: `base:` inheritance, dotted overrides, errors that name the key and its file."""

import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from owl2.data.mixture.recipe import StrictLoader
from owl2.recipes import find_recipe
from owl2.spelling import did_you_mean

from . import renamed
from .schema import Recipe

Tree = dict[str, Any]

COMMAND_LINE = "the command line"

_REPLACED_AS_A_WHOLE = {("data", "sources"), ("evaluate", "sources"), ("evaluate", "tasks")}
"""Sections that a file replaces as a whole; all other sections are merged with those of its base key by key."""

_ALTERNATIVES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("model", "checkpoint"): ("model", "initialize"),
    ("model", "initialize"): ("model", "checkpoint"),
}
"""Pairs of keys, of which the one that was given last counts."""


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe, the recipes that it is based on, and overrides.

    Args:
        path: YAML file, or the name of a recipe of the package. Its key `base` names another one, relative to it or by
            its name in the package, whose values it inherits. The YAML file of a `mixture` may lie beside it too.
        overrides: `section.key=value`, the value in YAML (`optimizer.learning_rate=1e-4`, `train.lora=null`).

    Raises:
        ValueError: The file cannot be read, a base leads back to itself, a key is unknown or a value wrong; every
            problem is named with its key and the file in which it stands.
    """
    tree: Tree = {}
    origin: dict[tuple[str, ...], str] = {}
    for file in reversed(_inheritance(find_recipe(path))):
        settings = {key: value for key, value in read_yaml(file).items() if key != "base"}
        _find_mixtures(settings, file)
        _merge(tree, settings, origin, str(file))
    for override in overrides:
        keys, value = _parse_override(override)
        _merge(tree, _nested(keys, value), origin, COMMAND_LINE, is_file=False)
    return parse_recipe(tree, str(path), origin)


def parse_recipe(tree: Tree, name: str, origin: dict[tuple[str, ...], str] | None = None) -> Recipe:
    """A recipe from plain values.

    Args:
        name: Name of the recipe in errors.
        origin: File of each value, if it is another one.

    Raises:
        ValueError: As `load_recipe`.
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        problems = [_explain(problem, name, origin or {}) for problem in error.errors(include_url=False)]
        raise ValueError("; ".join(dict.fromkeys(problems))) from error


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML; reading it gives the same recipe."""
    return yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True, width=120)


def differing_keys(one: Recipe, other: Recipe) -> list[str]:
    """`key: value here, value there` of each dotted key in which two recipes differ."""
    first, second = dict(_leaves(one.to_dict())), dict(_leaves(other.to_dict()))
    keys = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    return [f"{key}: {first.get(key)!r}, {second.get(key)!r}" for key in keys]


def _inheritance(path: Path) -> list[Path]:
    """The file, its base, the base of that, and so on."""
    files = [path]
    while (base := read_yaml(files[-1]).get("base")) is not None:
        if not isinstance(base, str):
            raise ValueError(f"{files[-1]}: base must be the path or name of another recipe, not {base!r}")
        try:
            following = _beside(files[-1], base) or find_recipe(base)
        except ValueError as error:
            raise ValueError(f"{files[-1]}: base: {error}") from error
        if following.resolve() in [file.resolve() for file in files]:
            chain = " -> ".join(map(str, [*files, following]))
            raise ValueError(f"the recipe is based on itself: {chain}")
        files.append(following)
    return files


def _beside(file: Path, name: str) -> Path | None:
    path = file.parent / name
    return path if path.is_file() else None


def _find_mixtures(settings: Tree, file: Path) -> None:
    """Replaces paths of mixtures that lie beside a recipe by paths from the working directory."""
    for section in ("data", "evaluate"):
        sources = settings[section].get("sources") if isinstance(settings.get(section), dict) else None
        for source in sources.values() if isinstance(sources, dict) else ():
            if isinstance(source, dict) and source.get("format") == "mixture" and isinstance(source.get("path"), str):
                source["path"] = str(_beside(file, source["path"]) or source["path"])


def read_yaml(path: Path) -> Tree:
    """The mapping in a file, with no key twice.

    Raises:
        ValueError: There is no such file, or it holds something else.
    """
    if not path.is_file():
        raise ValueError(f"there is no recipe {path}")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=StrictLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path} holds no sections: a recipe is a mapping, this is {type(tree).__name__}")
    return tree


def _parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    name, equals, value = text.partition("=")
    if not equals or not name or "" in name.split("."):
        raise ValueError(
            f"{text!r} is not an override: write section.key=value, for example optimizer.learning_rate=1e-4"
        )
    try:
        return tuple(name.split(".")), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"the value of {text!r} is not YAML: {' '.join(str(error).split())}") from error


def _nested(keys: tuple[str, ...], value: Any) -> Tree:
    for key in reversed(keys):
        value = {key: value}
    return value


def _merge(
    tree: Tree,
    settings: Tree,
    origin: dict[tuple[str, ...], str],
    file: str,
    is_file: bool = True,
    prefix: tuple[str, ...] = (),
) -> None:
    """Writes settings into a tree: sections key by key, everything else as a whole.

    `origin` gets the file of each value, and the last file of each section.
    """
    for key, value in settings.items():
        keys = (*prefix, str(key))
        other = _ALTERNATIVES.get(keys)
        if other is not None and value is not None:
            tree.pop(other[-1], None)
        whole = is_file and keys in _REPLACED_AS_A_WHOLE
        origin[keys] = file
        if isinstance(value, dict) and isinstance(tree.get(key), dict) and not whole:
            _merge(tree[key], value, origin, file, is_file, keys)
        else:
            tree[key] = value
            origin.update(dict.fromkeys(_keys_inside(value, keys), file))


def _keys_inside(value: Any, prefix: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield (*prefix, str(key))
        yield from _keys_inside(inner, (*prefix, str(key)))


def _explain(problem: Any, name: str, origin: dict[tuple[str, ...], str]) -> str:
    """Describes one problem of validation in one line."""
    keys = tuple(str(key) for key in problem["loc"] if str(key) not in _TAGS)
    file = next((origin[keys[:end]] for end in range(len(keys), 0, -1) if keys[:end] in origin), name)
    key = ".".join(keys)
    if problem["type"] == "extra_forbidden":
        if keys in renamed.KEYS:
            return f"{file}: the key {key} is now called {keys[0]}.{renamed.KEYS[keys]}"
        return f"{file}: there is no key {key}; {did_you_mean(_nearest(key))}".rstrip("; ")
    if keys[:2] == ("train", "parts") and isinstance(problem["input"], str) and problem["input"] in renamed.PARTS:
        return f"{file}: the part {problem['input']} is now called {renamed.PARTS[problem['input']]}"
    text = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{file}: the key {key} is missing"
    shown = "" if isinstance(problem["input"], dict) else f" (it is {problem['input']!r:.100})"
    return f"{file}: {key or 'the recipe'}: {text}{shown}"


def _nearest(key: str) -> list[str]:
    """The key that is spelt most like an unknown one, in its own section first; none if no key is like it."""
    known = list(_known_keys(Recipe))
    named = re.search(r"\b(sources|tasks)\.([^.]+)\.", key)
    section, _, last = (key.replace(named[0], f"{named[1]}.{_ANY}.") if named else key).rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == section}
    close = difflib.get_close_matches(last, siblings, 1)
    if close:
        return [siblings[close[0]].replace(_ANY, named[2] if named else _ANY)]
    elsewhere = {name.rpartition(".")[2]: name for name in known}
    close = difflib.get_close_matches(last, elsewhere, 1, cutoff=0.75)
    return [elsewhere[name] for name in close]


def _known_keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted names of all keys of a section and of the sections inside it."""
    for name, field in section.model_fields.items():
        yield prefix + name
        for inner in _sections_in(field.annotation):
            inside = f"{_ANY}." if typing.get_origin(field.annotation) is dict else ""
            yield from _known_keys(inner, f"{prefix}{name}.{inside}")


def _sections_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) in (typing.Union, dict):
        return [inner for part in typing.get_args(annotation) for inner in _sections_in(part)]
    return []


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


_ANY = "NAME"
"""The key that stands for the name of a source or a task."""

_TAGS = {"str", "SmallLanguageModel", "int", "literal['auto']", "constrained-int"}
"""Words that pydantic adds to the path of a value that may be of several types."""
