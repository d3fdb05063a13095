"""A grid of runs: factors and their levels as overrides of recipes, seeds, what is measured, what is compared.

A cell is one level of each factor and one seed. It goes through the stages, each a recipe that starts from the model of
the stage before; stages that come out the same for several cells are trained once.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError, model_validator

from owl2.training.recipe.base import Positive, Section
from owl2.training.recipe.schema import Recipe
from owl2.training.recipe.yaml_file import load_recipe, read_yaml

from .measurement import Measurement

EVERY = "every"
"""The name that stands for all stages: its overrides are applied to each of them."""

SEED = "{seed}"
"""The value that stands for the seed of the cell. Every stage has this seed unless it names its own."""

Overrides = dict[str, Any]
"""Values by dotted key of a recipe."""

_FREE = ("out", "parallel", "checkpoint", "logging", "limits")
"""Sections that do not decide what is learnt, and so not which cell it is."""


class Stage(Section):
    """A stage of a cell: a recipe, and what this grid changes in it.

    Attributes:
        start: Key of the recipe that gets the model of the stage before.
    """

    recipe: str
    overrides: Overrides = {}
    start: str = "model.checkpoint"


class Column(Section):
    """A column of the table.

    Attributes:
        metric: `MEASUREMENT.KEY` of its summary (of a loss: `loss`, `perplexity`), `STAGE.KEY` of the last line of its
            evaluations, or the difference of two, `ONE - OTHER`.
        better: Whether more or less of it is better.
    """

    metric: str
    title: str
    better: Literal["more", "less"] = "more"
    percent: bool = False


class Contrast(Section):
    """A difference that is tested over paired seeds: the sum of the cells `plus` less that of the cells `minus`.

    Attributes:
        plus, minus: Cells by the levels of the factors.
        primary: Among those whose p values are corrected together; all others are exploratory.
        margin: Differences within plus or minus this are of no interest (TOST).
        better: Whether more or less of the metric is better, so what counts as `reversed`.
    """

    title: str
    metric: str
    plus: Annotated[list[dict[str, str]], Field(min_length=1)]
    minus: Annotated[list[dict[str, str]], Field(min_length=1)]
    primary: bool = False
    margin: Annotated[float, Field(gt=0)] = 0.01
    better: Literal["more", "less"] = "more"


class Smoke(Section):
    """The short form, which shows that everything runs and is no evidence.

    Attributes:
        limit: Number of samples of each benchmark and each loss.
    """

    seeds: Annotated[list[int], Field(min_length=1)] = [0, 1]
    only: dict[str, list[str]] = {}
    overrides: dict[str, Overrides] = {}
    limit: Positive | None = None


class Grid(Section):
    """A grid: stages, factors and seeds, with what is measured and compared.

    Attributes:
        stages: The stages, in the order in which a cell goes through them.
        factors: Overrides of the recipe of each stage (or of `every` stage), by factor and level.
        without: Cells that are left out, by some of their levels.
        published: Rows of the paper, by the title of their table: values of the columns by row.
    """

    title: str
    question: str
    stages: Annotated[dict[str, Stage], Field(min_length=1)]
    factors: Annotated[dict[str, dict[str, dict[str, Overrides]]], Field(min_length=1)]
    seeds: Annotated[list[int], Field(min_length=1)]
    measure: dict[str, Measurement]
    columns: Annotated[list[Column], Field(min_length=1)]
    contrasts: list[Contrast] = []
    without: list[dict[str, str]] = []
    published: dict[str, dict[str, dict[str, float]]] = {}
    smoke: Smoke = Smoke()

    @model_validator(mode="after")
    def _fits_together(self) -> "Grid":
        for factor, levels in self.factors.items():
            if not levels:
                raise ValueError(f"the factor {factor} has no level")
            for level, by_stage in levels.items():
                unknown = [stage for stage in by_stage if stage not in (*self.stages, EVERY)]
                if unknown:
                    raise ValueError(
                        f"{factor}={level} changes the stage {unknown[0]}, but the stages are {', '.join(self.stages)}"
                    )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"each seed can be given once, got {self.seeds}")
        for contrast in self.contrasts:
            for selected in (*contrast.plus, *contrast.minus):
                self.check_levels(selected, f"the contrast {contrast.title!r}", whole=True)
        for selected in self.without:
            self.check_levels(selected, "without")
        for name, chosen in self.smoke.only.items():
            for level in chosen:
                self.check_levels({name: level}, "smoke.only")
        known = {*self.measure, *self.stages}
        for name, entry in self.measure.items():
            if entry.after is not None and entry.after not in self.stages:
                raise ValueError(f"{name} is measured after {entry.after}, but the stages are {', '.join(self.stages)}")
        for metric in self.metrics():
            if metric.partition(".")[0] not in known or not metric.partition(".")[2]:
                raise ValueError(
                    f"no cell has the metric {metric}: it must begin with one of {', '.join(known)} and a dot"
                )
        return self

    def check_levels(self, selected: Mapping[str, str], where: str, whole: bool = False) -> None:
        """Refuses factors and levels that the grid does not have.

        Raises:
            ValueError: There is one; with `whole`, or a factor is not named.
        """
        for factor, level in selected.items():
            if factor not in self.factors:
                raise ValueError(f"{where} names the factor {factor}, but there are {', '.join(self.factors)}")
            if level not in self.factors[factor]:
                raise ValueError(
                    f"{where} names {factor}={level}, but {factor} is one of {', '.join(self.factors[factor])}"
                )
        if whole and set(selected) != set(self.factors):
            raise ValueError(f"{where} must name a level of each factor ({', '.join(self.factors)}), got {selected}")

    def metrics(self) -> list[str]:
        """All metrics that columns and contrasts name, each of a difference by itself."""
        named = [column.metric for column in self.columns] + [contrast.metric for contrast in self.contrasts]
        return list(dict.fromkeys(term for metric in named for term in terms_of(metric)))

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


def terms_of(metric: str) -> list[str]:
    """The one metric, or the two whose difference it is."""
    return metric.split(" - ")


class StageRun(NamedTuple):
    """A stage of a cell.

    Attributes:
        key: Hash of everything that decides what this stage and those before it learn.
        written: The recipe and its overrides, but for the model of the stage before, which `start` is the key of.
    """

    name: str
    key: str
    written: tuple[Path, tuple[str, ...]]
    start: str | None

    @property
    def directory(self) -> str:
        """The name of its run directory."""
        return f"{self.name}-{self.key[:12]}"

    def recipe(self, model: Path | None, out: Path) -> Recipe:
        """The recipe to train.

        Args:
            model: The model of the stage before.
            out: The run directory.

        Raises:
            ValueError: The recipe cannot be resolved.
        """
        path, overrides = self.written
        given = [f"out={out}"] if self.start is None else [f"out={out}", f"{self.start}={model}"]
        return load_recipe(path, [*overrides, *given])


class Cell(NamedTuple):
    """One level of each factor and a seed.

    Attributes:
        key: Hash of the last stage and of what is measured.
    """

    levels: dict[str, str]
    seed: int
    stages: list[StageRun]
    key: str

    @property
    def condition(self) -> str:
        """The levels as text, the same for all seeds."""
        return ", ".join(f"{factor}={level}" for factor, level in self.levels.items())

    @property
    def name(self) -> str:
        """The name of its file."""
        return "-".join([*self.levels.values(), f"seed{self.seed}"])


def load_grid(path: Path) -> Grid:
    """Reads a grid.

    Raises:
        ValueError: The file cannot be read, a key is unknown, or its parts do not fit each other.
    """
    try:
        return Grid.model_validate(read_yaml(path))
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, problem['loc'])) or 'the grid'}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors(include_url=False)
        ]
        raise ValueError(f"{path}: {'; '.join(problems)}") from error


def select(grid: Grid, only: Sequence[str], smoke: bool = False) -> Grid:
    """The grid with some of the levels, and in its short form.

    Args:
        only: `FACTOR=LEVEL,LEVEL`; factors that are not named keep all their levels.

    Raises:
        ValueError: There is no such factor or level.
    """
    wanted = {name: list(levels) for name, levels in grid.smoke.only.items()} if smoke else {}
    for text in only:
        factor, equals, named = text.partition("=")
        if not equals or not named:
            raise ValueError(f"{text!r} selects nothing: write FACTOR=LEVEL,LEVEL")
        wanted[factor] = named.split(",")
    factors = dict(grid.factors)
    for factor, levels in wanted.items():
        for level in levels:
            grid.check_levels({factor: level}, "the selection")
        factors[factor] = {level: grid.factors[factor][level] for level in levels}
    changes: dict[str, Any] = {"factors": factors}
    if smoke:
        changes["seeds"] = list(grid.smoke.seeds)
        if grid.smoke.limit is not None:
            changes["measure"] = {name: entry.limited(grid.smoke.limit) for name, entry in grid.measure.items()}
        changes["stages"] = {
            name: stage.model_copy(update={"overrides": {**stage.overrides, **grid.smoke.overrides.get(name, {})}})
            for name, stage in grid.stages.items()
        }
    kept = [
        contrast
        for contrast in grid.contrasts
        if all(level in factors[name] for cell in (*contrast.plus, *contrast.minus) for name, level in cell.items())
    ]
    return grid.model_copy(update={**changes, "contrasts": kept})


def expand(grid: Grid, folder: Path) -> list[Cell]:
    """All cells: seed by seed, so that a grid that is cut off has whole pairs.

    Args:
        folder: What the paths of recipes are relative to.

    Raises:
        ValueError: A recipe cannot be resolved, or two conditions are the same run.
    """
    cells = []
    for seed in grid.seeds:
        keys: dict[str, str] = {}
        for levels in conditions(grid):
            cell = _cell(grid, levels, seed, folder)
            if cell.key in keys:
                raise ValueError(f"{keys[cell.key]} and {cell.condition} are the same run: their recipes are equal")
            keys[cell.key] = cell.condition
            cells.append(cell)
    return cells


def conditions(grid: Grid) -> Iterator[dict[str, str]]:
    """The levels of each condition, in the order of the grid."""
    for chosen in itertools.product(*grid.factors.values()):
        levels = dict(zip(grid.factors, chosen, strict=True))
        if not any(without.items() <= levels.items() for without in grid.without):
            yield levels


def _cell(grid: Grid, levels: dict[str, str], seed: int, folder: Path) -> Cell:
    stages: list[StageRun] = []
    for name, stage in grid.stages.items():
        overrides = dict(stage.overrides)
        for factor, level in levels.items():
            by_stage = grid.factors[factor][level]
            overrides |= {**by_stage.get(EVERY, {}), **by_stage.get(name, {})}
        before = stages[-1] if stages else None
        stages.append(_stage(name, stage, {"seed": SEED} | overrides, seed, before, folder))
    measured = {name: entry.model_dump(exclude_defaults=True) for name, entry in grid.measure.items()}
    return Cell(levels, seed, stages, _hash([stages[-1].key, measured]))


def _stage(name: str, stage: Stage, overrides: Overrides, seed: int, before: StageRun | None, folder: Path) -> StageRun:
    """The stage with its key: the hash of its recipe, in which the model of the stage before stands as its key."""
    path = folder / stage.recipe
    if not path.exists():
        path = Path(stage.recipe)
    values = {key: seed if value == SEED else value for key, value in overrides.items()}
    written = tuple(f"{key}={json.dumps(value)}" for key, value in values.items())
    given = [] if before is None else [f"{stage.start}={before.key}"]
    learnt = load_recipe(path, [*written, *given]).model_dump(mode="json", exclude_defaults=True)
    for section in _FREE:
        learnt.pop(section, None)
    learnt.get("data", {}).pop("workers", None)
    return StageRun(name, _hash(learnt), (path, written), None if before is None else stage.start)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
