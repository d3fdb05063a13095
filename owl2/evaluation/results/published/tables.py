"""The published tables as data: one JSON file a table in this folder, each naming its source.

Values are those printed, in the unit of their column: `percent`, `fraction` (0-1) or `points` (CIDEr x 100, the sum of
MME, scores of a judge).
"""

import json
from dataclasses import dataclass, field, fields
from importlib.resources import files
from typing import Any, Literal

REFERENCE = "mPLUG-Owl2"  # the model that a result of ours is compared with


@dataclass(frozen=True)
class PublishedColumn:
    """One measure. `group` is the heading above it; `metric` and `split` are None where the source prints none."""

    key: str
    label: str
    group: str | None
    task: str
    metric: str | None
    split: str | None
    unit: Literal["percent", "fraction", "points"]


@dataclass(frozen=True)
class PublishedRow:
    """One model: a value for each column, None where the source prints none.

    Dictionaries are by column key: `marks` holds the signs printed behind a value, `deviations` the number after ±,
    and `reconstructed` what is readable of a value that the source's text cuts off and that other cells determine.
    `mark` is the sign printed behind the model's name.
    """

    model: str
    values: tuple[float | None, ...]
    section: str | None = None
    mark: str = ""
    details: tuple[str, ...] = ()
    marks: dict[str, str] = field(default_factory=dict)
    deviations: dict[str, float] = field(default_factory=dict)
    reconstructed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PublishedTable:
    """A table of the paper, of its supplement or of the official README.

    `details` are the headings of the descriptive columns (parameters, parts of the model), `sections` the blocks of
    rows by key, `legend` what a mark means.
    """

    name: str
    title: str
    source: str
    layout: Literal["models_as_rows", "models_as_columns"]
    details: tuple[str, ...]
    sections: dict[str, str]
    legend: dict[str, str]
    notes: tuple[str, ...]
    columns: tuple[PublishedColumn, ...]
    rows: tuple[PublishedRow, ...]

    @property
    def references(self) -> list[PublishedRow]:
        """The rows of mPLUG-Owl2: one, or one a section where the sections are different measures."""
        return [row for row in self.rows if row.model == REFERENCE]

    def measures(self, reference: PublishedRow) -> list[str]:
        """The names of our results, one a column: `section.column` if there are several references."""
        prefix = f"{reference.section}." if len(self.references) > 1 else ""
        return [prefix + column.key for column in self.columns]

    def decimals(self, index: int) -> int:
        """The number of decimals that the source prints in the column at `index`."""
        printed = [repr(row.values[index]) for row in self.rows if row.values[index] is not None]
        return max(len(value.partition(".")[2]) for value in printed)


def published_table(name: str) -> PublishedTable:
    """One table: `paper_table_1` to `_4`, `supplement_table_3` to `_7`, or `readme`. ValueError for any other name."""
    tables = published_tables()
    if name not in tables:
        raise ValueError(f"there is no published table {name!r}; the tables are {', '.join(tables)}")
    return tables[name]


def published_tables() -> dict[str, PublishedTable]:
    """Every table by name."""
    paths = sorted((path for path in files(__package__).iterdir() if path.name.endswith(".json")), key=lambda p: p.name)
    names = [path.name.removesuffix(".json") for path in paths]
    return {name: _table(name, json.loads(path.read_text("utf-8"))) for name, path in zip(names, paths, strict=True)}


def _table(name: str, data: dict[str, Any]) -> PublishedTable:
    columns = tuple(PublishedColumn(**column) for column in data.pop("columns"))
    rows = tuple(PublishedRow(**_tuples(PublishedRow, row)) for row in data.pop("rows"))
    for row in rows:
        assert len(row.values) == len(columns) and len(row.details) in (0, len(data["details"])), (name, row)
    return PublishedTable(name=name, columns=columns, rows=rows, **_tuples(PublishedTable, data))


def _tuples(kind: type, data: dict[str, Any]) -> dict[str, Any]:
    """`data` of JSON with its lists as tuples. An unknown field raises an error in `kind` later."""
    assert data.keys() <= {part.name for part in fields(kind)}, data.keys()
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
