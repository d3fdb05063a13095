"""The recipe of a mixture: a YAML file that names sources, their files, their sizes and weights.

    cache: cache            # where what is read is kept; may be deleted at any time
    root: /data             # where relative paths begin; the directory of the recipe by default
    seed: 0
    sources:
      textcaps: {annotations: TextCaps_0.1_train.json, images: textvqa}
      mine: {format: records, file: mine.jsonl, images: pictures, weight: 20000}

The files that a format takes are the arguments of `conversations` in `owl2.data.sources.FORMAT`. docs/train/mixtures.md
describes all keys.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

import yaml

from owl2.data.annotations import AnyPath
from owl2.data.sources.mixture_sizes import TABLE_8
from owl2.processing.image_loading import check_local_path
from owl2.recipes import find_recipe, is_of_package
from owl2.spelling import did_you_mean

RECORDS = "records"
"""The format of files of LLaVA conversations and chat messages."""

OPINIONS = ("quality", "aesthetics")
"""The formats of opinion scores of images, which are no sources of Table 8."""

TABLE_8_SIZES = {row.source: row.size for row in TABLE_8}

ALL = "all"  # as a size

_KEYS = ("cache", "root", "seed", "sources")
_SOURCE_KEYS = ("format", "size", "weight")
_NOT_THE_USERS = ("seed", "epoch", "rejected")  # arguments of a reader


@dataclass(frozen=True)
class SourceRecipe:
    """A source of a mixture.

    Attributes:
        format: Name of a source of Table 8, one of `OPINIONS`, or `RECORDS`.
        arguments: Arguments of the reader: `Path`s and others.
        size: Maximum number of records that are used; `None` for all.
        weight: Weight, relative to the other sources; `None` for the number of records that are used.
    """

    name: str
    format: str
    arguments: dict[str, Any]
    size: int | None = None
    weight: float | None = None


@dataclass(frozen=True)
class MixtureRecipe:
    """A mixture: its sources, their seed, and where what is read from them is cached.

    Attributes:
        path: The file it was read from.
        cache: Directory of the cache.
        seed: Seed of what readers draw, such as captions, and of the order of examples.
    """

    path: Path
    cache: Path
    seed: int
    sources: tuple[SourceRecipe, ...]


def load_mixture_recipe(path: str | PathLike[str]) -> MixtureRecipe:
    """Reads a recipe.

    Args:
        path: YAML file, or the name of a mixture of the package, whose relative paths begin where the command runs.

    Raises:
        ValueError: The file is missing or not YAML; a key is unknown, missing or repeated; a value is of the wrong
            kind. Whether the files that it names exist is not checked.
    """
    file = find_recipe(path) if "://" not in str(path) else Path(check_local_path(path, "mixture recipe"))
    folder = Path.cwd() if is_of_package(file) else file.parent
    values = _mapping(_read_yaml(file), str(file))
    _check_keys(values, _KEYS, str(file))
    for key in ("cache", "sources"):
        if key not in values:
            raise ValueError(f"{file}: {key!r} is missing: a recipe has a directory 'cache' and 'sources'")
    root = folder / _text(values.get("root", "."), f"{file}: root")
    seed = values.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ValueError(f"{file}: seed is {seed!r}, not a whole number")
    sources = _mapping(values["sources"], f"{file}: sources")
    if not sources:
        raise ValueError(f"{file}: 'sources' names no source")
    return MixtureRecipe(
        path=file,
        cache=(folder / _text(values["cache"], f"{file}: cache")).absolute(),
        seed=seed,
        sources=tuple(_source(str(name), value, root, f"{file}: {name}") for name, value in sources.items()),
    )


def reader(format_: str) -> Callable[..., Iterable[Any]]:
    """The function that reads a source of Table 8, or opinion scores."""
    return import_module(f"owl2.data.sources.{format_}").conversations


def depends_on_epoch(format_: str) -> bool:
    """Whether another epoch of a source has other records, such as other captions."""
    return format_ != RECORDS and "epoch" in inspect.signature(reader(format_)).parameters


def counts_left_out(format_: str) -> bool:
    """Whether the reader of a source counts records that no model can learn from."""
    return "rejected" in inspect.signature(reader(format_)).parameters


def _source(name: str, value: Any, root: Path, where: str) -> SourceRecipe:
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"{where}: a source is named with letters, digits and _ . -")
    values = _mapping(value, where)
    format_ = values.get("format", name if name in TABLE_8_SIZES else None)
    formats = [*TABLE_8_SIZES, *OPINIONS, RECORDS]
    if format_ not in formats:
        what = "'format' is missing" if format_ is None else f"there is no format {format_!r}"
        raise ValueError(f"{where}: {what}; {_near(format_, formats)}there are {', '.join(formats)}")
    parameters = _parameters(format_)
    _check_keys(values, (*_SOURCE_KEYS, *parameters), where)
    arguments = {}
    for parameter in parameters.values():
        if parameter.name in values:
            arguments[parameter.name] = _argument(parameter, values[parameter.name], root, where)
        elif parameter.default is parameter.empty:
            raise ValueError(f"{where}: {parameter.name!r} is missing; {format_} takes {', '.join(parameters)}")
    size = values.get("size", TABLE_8_SIZES.get(format_, ALL))
    if size != ALL and not _is_count(size):
        raise ValueError(f"{where}: size is {size!r}, not a whole number above 0 or {ALL!r}")
    weight = values.get("weight")
    if weight is not None and not _is_number(weight):
        raise ValueError(f"{where}: weight is {weight!r}, not a number above 0")
    return SourceRecipe(name, format_, arguments, None if size == ALL else size, weight)


def _parameters(format_: str) -> Mapping[str, inspect.Parameter]:
    """The arguments that a user gives a source: files, folders and, rarely, a number."""
    function = _records if format_ == RECORDS else reader(format_)
    parameters = inspect.signature(function).parameters
    return {name: parameter for name, parameter in parameters.items() if name not in _NOT_THE_USERS}


def _records(file: AnyPath, images: AnyPath = ".") -> None:
    """The arguments of the format `records`: the file, and the folder of its images and videos (by default its own)."""


def _argument(parameter: inspect.Parameter, value: Any, root: Path, where: str) -> Any:
    if parameter.annotation is int:
        if not _is_count(value):
            raise ValueError(f"{where}: {parameter.name} is {value!r}, not a whole number above 0")
        return value
    return (root / _text(value, f"{where}: {parameter.name}")).absolute()


def with_sources(recipe: MixtureRecipe, names: Iterable[str]) -> MixtureRecipe:
    """The recipe with the named sources alone, in its own order.

    Raises:
        ValueError: It has no source of that name.
    """
    own, wanted = [source.name for source in recipe.sources], list(names)
    for name in wanted:
        if name not in own:
            raise ValueError(f"{recipe.path} has no source {name!r}; {_near(name, own)}there are {', '.join(own)}")
    return replace(recipe, sources=tuple(source for source in recipe.sources if source.name in wanted))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{where} is {value!r:.100}, not a path")
    return value


def _mapping(value: Any, where: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected keys with values, found {value!r:.100}")
    return value


def _check_keys(values: Mapping[Any, Any], known: Iterable[str], where: str) -> None:
    for key in values:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}; {_near(key, known)}there are {', '.join(known)}")


def _near(name: Any, names: Iterable[str]) -> str:
    return did_you_mean(get_close_matches(str(name), list(names), 1))


class StrictLoader(yaml.SafeLoader):
    """Loads plain data only, and refuses a key given twice, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"line {node.start_mark.line + 1}: the key {key!r} is repeated")
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_bytes(), Loader=StrictLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
