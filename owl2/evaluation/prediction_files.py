"""Files of predictions: a header on the first line, then one sample a line (specification, 0.3).

`predictions.jsonl` of a finished task holds its samples in their order. While a task runs, each rank appends to a file
of its own, `partial-RANK.jsonl`; what it holds is not predicted again.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from owl2.files import file_sha256, parse_json, write_whole

from .task import Prediction, Ranking, Sample, Scores

PREDICTIONS = "predictions.jsonl"


def line_of(record: Prediction, parsed: Any = None, score: float | None = None) -> str:
    """A record as a line of JSON."""
    raw = record.raw if isinstance(record.raw, str) else asdict(record.raw)
    values = {"id": record.id, "prompt": record.prompt, "raw": raw, "parsed": parsed, "gold": record.gold}
    return json.dumps({**values, "score": score, "details": record.details}, ensure_ascii=False) + "\n"


def read_predictions(path: Path) -> tuple[dict[str, Any], list[Prediction]]:
    """Header and records of a file of predictions.

    Raises:
        ValueError: The file is missing, or a line of it cannot be read; the line is named.
    """
    if not path.is_file():
        raise ValueError(f"{path} was not found: owl2 evaluate writes it when a task is complete")
    try:
        with path.open(encoding="utf-8") as file:
            lines = enumerate(file, start=1)
            header = _header(next(lines, (1, ""))[1], path)
            return header, [_record(line, f"{path}:{number}") for number, line in lines]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error.reason}; owl2 evaluate writes it so") from error


def read_header(path: Path) -> dict[str, Any]:
    """Reads only the header.

    Raises:
        ValueError: The first line is not a header.
    """
    with path.open(encoding="utf-8") as file:
        return _header(file.readline(), path)


def read_partial(path: Path) -> tuple[dict[str, Any], list[Prediction]]:
    """Reads a file that is being written, as `read_predictions` does; a last line that was cut off is left out."""
    contents = path.read_text(encoding="utf-8", errors="replace")
    complete = contents.split("\n")[:-1]  # not splitlines: a text may hold U+2028, U+0085 and their like
    if not complete:
        return {}, []
    header = _header(complete[0], path)
    return header, [_record(line, f"{path}:{number}") for number, line in enumerate(complete[1:], start=2)]


def write_predictions(path: Path, header: dict[str, Any], records: Sequence[Prediction], scores: Scores | None) -> None:
    """Writes a file of predictions completely or not at all."""
    parsed: Iterable[Any] = scores.parsed if scores else [None] * len(records)
    values: Iterable[float | None] = scores.scores if scores else [None] * len(records)
    lines = (line_of(*entry) for entry in zip(records, parsed, values, strict=True))
    write_whole(path, chain([header_line(header)], lines))


def header_line(header: dict[str, Any]) -> str:
    return json.dumps({"header": header}, ensure_ascii=False) + "\n"


_RENAMED = {
    "frame": "prompt_format",
    "frame_expected": "prompt_format_expected",
    "headline": "primary_metric",
}


def with_current_names(header: Mapping[str, Any]) -> dict[str, Any]:
    """Renames what an earlier version wrote in a header or result: "frame" for the prompt format, "bare" for "raw"."""
    named = {_RENAMED.get(name, name): value for name, value in header.items()}
    for name in ("prompt_format", "prompt_format_expected"):
        if named.get(name) == "bare":
            named[name] = "raw"
    return named


def ids_hash(ids: Iterable[str]) -> str:
    """SHA-256 of ids in their order, which says whether a file holds all of them."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def predictions_hash(records: Iterable[Prediction]) -> str:
    """SHA-256 of everything that scores are computed from."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(line_of(record).encode(errors="surrogatepass"))
    return digest.hexdigest()


@dataclass(frozen=True)
class CheckedPredictions:
    """The records of a file, each sample once.

    Attributes:
        duplicated: Ids that occurred again; what came first counts.
        is_complete: Whether they are exactly the samples of the header, in their order.
    """

    records: list[Prediction]
    duplicated: int
    is_complete: bool


def check_complete(header: dict[str, Any], records: Sequence[Prediction], allow_partial: bool) -> CheckedPredictions:
    """The records to score.

    Raises:
        ValueError: There are none; or samples are missing, unknown or repeated, unless `allow_partial`.
    """
    if not records:
        raise ValueError(f"the file of predictions of {header['task']} has none: nothing to score")
    first: dict[str, Prediction] = {}
    for record in records:
        first.setdefault(record.id, record)
    duplicated = [name for name, count in Counter(record.id for record in records).items() if count > 1]
    expected = int(header["samples"])
    complete = not duplicated and ids_hash(first) == header["ids_sha256"]
    if duplicated and not allow_partial:
        raise ValueError(
            f"{len(duplicated)} ids occur more than once, such as {duplicated[0]!r}: no score is given. Remove them, "
            "or pass --allow-partial, which takes the first of each and which the result will show"
        )
    if not complete and not allow_partial:
        raise ValueError(
            f"the predictions of {header['task']} are not those of the whole split: {len(records)} of {expected} "
            "samples, or other ids than those. Predict the rest, or pass --allow-partial, which the result will show"
        )
    return CheckedPredictions(list(first.values()), len(duplicated), complete)


def _header(line: str, path: Path) -> dict[str, Any]:
    try:
        header = parse_json(line)["header"]
        return {**with_current_names(header), "task": str(header["task"]), "samples": int(header["samples"])}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path}:1: not the header of a file of predictions: {line[:80]!r}") from error


def _record(line: str, where: str) -> Prediction:
    try:
        values = parse_json(line)
        raw = values["raw"]
        if isinstance(raw, dict):
            raw = _ranking(**raw)
        elif not isinstance(raw, str):
            raise TypeError("raw is neither a text nor a ranking")
        return Prediction(str(values["id"]), str(values["prompt"]), raw, values["gold"], dict(values["details"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where}: not a prediction ({error}): {line[:80]!r}") from error


def _ranking(
    choices: list[str],
    log_probabilities: list[float],
    tokens: list[int],
    context_log_probability: float,
    context_tokens: int,
) -> Ranking:
    """A ranking from JSON, in which tuples are lists."""
    return Ranking(tuple(choices), tuple(log_probabilities), tuple(tokens), context_log_probability, context_tokens)


def record_of(sample: Sample, prompt: str, raw: str | Ranking) -> Prediction:
    """The record of a sample."""
    return Prediction(sample.id, prompt, raw, sample.gold, sample.details)


def file_hashes(files: Iterable[Path], root: Path) -> Iterator[dict[str, Any]]:
    """Name below the root, size and SHA-256 of files."""
    for file in files:
        name = str(file.relative_to(root)) if file.is_relative_to(root) else file.name
        yield {"file": name, "bytes": file.stat().st_size, "sha256": file_sha256(file)}
