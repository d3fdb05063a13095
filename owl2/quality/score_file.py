"""The file of scores: CSV or JSON lines, one row for each file and aspect, to which an interrupted run can add."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from owl2.files import check_output_directory, cut_after_last_line, errors_name, read_json_object, write_whole

from .protocols import LEVELS

COLUMNS = ("file", "aspect", "score", "mean", "deviation", *LEVELS, "frames", "problem")
SUFFIXES = (".csv", ".jsonl")


class ScoreFile:
    """A file of scores and, beside it, their settings (`scores.csv.settings.json`).

    Raises:
        ValueError: The ending is neither `.csv` nor `.jsonl`, or there can be no file in that place.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix not in SUFFIXES:
            raise ValueError(f"{path} must end with {' or '.join(SUFFIXES)}")
        if path.is_dir():
            raise ValueError(f"{path} is a directory, not a file of scores")
        check_output_directory(path.parent, "the directory")
        self.path = path
        self.settings_path = path.with_name(path.name + ".settings.json")

    def part(self, rank: int) -> "ScoreFile":
        """The file to which one of several ranks writes."""
        return ScoreFile(self.path.with_name(f"{self.path.stem}.rank-{rank}{self.path.suffix}"))

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Refuses to add to the scores of another setting.

        Raises:
            ValueError: A setting differs; the message names the first one.
        """
        if not self.settings_path.is_file():
            if self.path.is_file():
                raise ValueError(f"{self.path} exists, but not by owl2 quality: choose another --out")
            return
        there = read_json_object(self.settings_path, "the settings of scores")
        for name, value in settings.items():
            if there.get(name) != value:
                raise ValueError(
                    f"{self.path} holds scores of another setting: {name} is {there.get(name)!r} there and {value!r} "
                    "now. Choose another --out"
                )

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Writes the settings of a new file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.settings_path, json.dumps(dict(settings), indent=2) + "\n")

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the file, if it exists. A row that was cut off is removed from the file."""
        if not self.path.is_file():
            return
        cut_after_last_line(self.path)
        with self.path.open(encoding="utf-8", newline="") as file:
            if self.path.suffix == ".csv":
                yield from csv.DictReader(file)
            else:
                for line in file:
                    yield json.loads(line)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows, whose names are among `COLUMNS`."""
        is_new = not self.path.is_file() or self.path.stat().st_size == 0
        with errors_name(self.path), self.path.open("a", encoding="utf-8", newline="") as file:
            if self.path.suffix == ".csv":
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                if is_new:
                    writer.writeheader()
                writer.writerows(rows)
            else:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def take_in(self, parts: Iterable["ScoreFile"]) -> None:
        """Appends the rows of parts, and removes these files."""
        for part in parts:
            self.add(part.rows())
            part.path.unlink()

    def parts(self) -> list["ScoreFile"]:
        """The parts that an earlier run left unfinished."""
        return [ScoreFile(path) for path in sorted(self.path.parent.glob(f"{self.path.stem}.rank-*{self.path.suffix}"))]
