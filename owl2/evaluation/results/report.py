"""`owl2 report`: results next to the published ones, in the layout of the paper's tables, with charts."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from owl2.evaluation.prediction_files import with_current_names
from owl2.evaluation.results.published.tables import PublishedColumn
from owl2.evaluation.task import Task
from owl2.evaluation.tasks import TASKS, task_named
from owl2.files import read_json_object

from .charts import draw_bars, draw_radar
from .published import PublishedTable, markdown, published_tables
from .scoring import SCORES, value_at


@dataclass(frozen=True)
class PublishedComparison:
    """A result of ours next to the published one of mPLUG-Owl2, in the unit of the published column.

    Attributes:
        prompt_format: "chat" or "raw"; None for predictions from elsewhere.
        paper_results: None where the source prints nothing.
        reasons: Why the two must not be compared; empty if they may.
    """

    table: str
    measure: str
    label: str
    task: str
    split: str
    prompt: str
    prompt_format: str | None
    protocol: str
    unit: str
    ours: float
    published: float | None
    reasons: tuple[str, ...]


def read_results(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """The results of runs, in the order of the tasks. A task may occur with several splits, prompts and prompt formats.

    Raises:
        ValueError: A run has no result, or two runs have one of the same task, split, prompt and prompt format.
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    origins: dict[tuple[str, ...], Path] = {}
    for run in runs:
        files = [run / SCORES] if (run / SCORES).is_file() else sorted(run.glob(f"*/{SCORES}"))
        if not files:
            raise ValueError(f"{run} has no result ({SCORES}): run owl2 evaluate or owl2 score first")
        for file in files:
            result = _read(file)
            key = (result["task"], result["split"], result["prompt"], str(result.get("prompt_format")))
            if key in found:
                raise ValueError(
                    f"{key[0]} has results in {origins[key]} and {file}, both of the split {key[1]} and the prompt "
                    f"{key[2]}: report on one of them"
                )
            found[key], origins[key] = result, file
    return [result for name in TASKS for result in found.values() if result["task"] == name]


def _read(file: Path) -> dict[str, Any]:
    try:
        result = with_current_names(read_json_object(file, "the scores of a task"))
        task_named(result["task"])
        return result
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a result of owl2 score: {error}") from error


def compare(results: Sequence[dict[str, Any]]) -> list[PublishedComparison]:
    """Compares all measures of the results that a published table has too."""
    tables = published_tables()
    found: list[PublishedComparison] = []
    for result in results:
        task = task_named(result["task"])
        for (table, measure), key in task.paper_results.items():
            found += _compare(task, result, tables[table], measure, key)
    return found


def _compare(
    task: Task, result: dict[str, Any], table: PublishedTable, measure: str, key: str
) -> Iterator[PublishedComparison]:
    named, _, name = key.rpartition(":")
    protocol = named or result["default_protocol"]
    entry = result["protocols"].get(protocol)
    if entry is None:
        return
    try:
        value = value_at(entry["summary"], name)
    except KeyError:
        return  # a group that has none of these samples
    column, published = _column(table, measure)
    yield PublishedComparison(
        table.name,
        measure,
        " ".join(part for part in (column.group, column.label) if part),
        task.name,
        result["split"],
        result["prompt"],
        result.get("prompt_format"),
        protocol,
        column.unit,
        _in_unit(float(value), column),
        published,
        (*_reasons(task, result, protocol, named), *_reasons_of_judge(task, entry)),
    )


def fairest(comparisons: Sequence[PublishedComparison]) -> list[PublishedComparison]:
    """The comparison with the fewest reasons, among those of a measure with several splits and prompts."""
    chosen: dict[tuple[str, str], PublishedComparison] = {}
    for entry in sorted(comparisons, key=lambda entry: len(entry.reasons)):
        chosen.setdefault((entry.table, entry.measure), entry)
    return [entry for entry in comparisons if chosen[entry.table, entry.measure] is entry]


def _column(table: PublishedTable, measure: str) -> tuple[PublishedColumn, float | None]:
    """The column of a measure, and the value of mPLUG-Owl2."""
    for reference in table.references:
        measures = table.measures(reference)
        if measure in measures:
            index = measures.index(measure)
            return table.columns[index], reference.values[index]
    raise ValueError(f"{table.name} has no measure {measure}")


def _in_unit(value: float, column: PublishedColumn) -> float:
    """Summaries hold fractions, and CIDEr as its program gives it."""
    return 100 * value if column.unit == "percent" or column.metric == "CIDEr" else value


def _expected(task: Task, split: str, named: str) -> tuple[str, str]:
    """Prompt and protocol of a published measure: the defaults of the split, or the protocol that is named for the
    measure with the first prompt that it is the default of."""
    prompts = task.prompts_of.get(split, task.prompts)
    protocol = named or task.protocols_for(prompts[0])[0]
    return next((name for name in prompts if task.protocols_for(name)[0] == protocol), prompts[0]), protocol


def _reasons(task: Task, result: dict[str, Any], protocol: str, named: str) -> Iterator[str]:
    """Reasons why a result must not be compared with the published one that lie in its samples and prompts."""
    if result["partial"]:
        yield f"{result['samples']} of {result['samples_of_split']} samples"
    expected = result["samples_expected"]
    if expected is not None and result["samples_of_split"] != expected:
        yield f"the split has {result['samples_of_split']} samples here, {expected} officially"
    if result["split"] in task.not_comparable:
        yield task.not_comparable[result["split"]]
    expected_prompt, expected_protocol = _expected(task, result["split"], named)
    if result["prompt"] in task.not_comparable:
        yield task.not_comparable[result["prompt"]]
    elif result["prompt"] != expected_prompt:
        yield f"prompt {result['prompt']}"
    if protocol != expected_protocol:
        yield f"protocol {protocol}, not {expected_protocol}"
    if result.get("prompt_format") != result.get("prompt_format_expected"):
        yield "without the chat template"
    elif result["suffix"] not in (task.suffix, None):
        yield f"suffix {result['suffix']!r}"


def _reasons_of_judge(task: Task, entry: dict[str, Any]) -> Iterator[str]:
    """Reasons why a result must not be compared with the published one that lie in the judge."""
    judged = entry.get("judged_by")
    if not judged or not task.judged:
        return
    if judged["judge"] != task.judged.model:
        yield f"judged by {judged['judge']}, not {task.judged.model}"
    if judged["runs"] != task.judged.runs:
        yield f"{judged['runs']} runs of the judge, not {task.judged.runs}"
    if any(prompt["own_words"] for prompt in judged["prompts"].values()):
        yield "the judge's prompt is in our own words, not the official ones"
    if any(judged["failures"]):
        yield f"the judge failed: {judged['failures']}"


def write_report(runs: Sequence[Path], out: Path) -> list[Path]:
    """Writes `report.md`, `report.json`, and the charts `radar.png` and `bars.png` if there is something to draw.

    Raises:
        ValueError: As `read_results`.
    """
    results = read_results(runs)
    comparisons = compare(results)
    out.mkdir(parents=True, exist_ok=True)
    drawn = [
        entry for entry in fairest(comparisons) if entry.published is not None and not entry.table.startswith("readme")
    ]
    charts = []
    if drawn:
        charts = [draw_radar(drawn, out / "radar.png"), draw_bars(drawn, out / "bars.png")]
    text = out / "report.md"
    text.write_text(_markdown(results, comparisons, charts), encoding="utf-8")
    data = out / "report.json"
    content = {"results": results, "comparisons": [asdict(entry) for entry in comparisons]}
    data.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return [text, data, *charts]


def _markdown(
    results: Sequence[dict[str, Any]], comparisons: Sequence[PublishedComparison], charts: Sequence[Path]
) -> str:
    parts = ["# Results", _overview(results)]
    parts += [f"![{chart.stem}]({chart.name})" for chart in charts]
    for table in published_tables().values():
        own = [entry for entry in fairest(comparisons) if entry.table == table.name]
        if own:
            ours = {entry.measure: entry.ours for entry in own}
            reasons = {entry.measure: "; ".join(entry.reasons) for entry in own if entry.reasons}
            parts += [f"## {table.title}", markdown(table, ours, reasons), _protocols(own)]
    return "\n\n".join(parts) + "\n"


def _overview(results: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| Benchmark | model | split | prompt | format | samples | protocol | measure | value |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        counted = f"{result['samples']} of {result['samples_of_split']}" + (" (partial)" if result["partial"] else "")
        model = (result.get("model") or {}).get("name", "-")
        for protocol, entry in result["protocols"].items():
            value = entry["summary"].get(result["primary_metric"])
            shown = f"{value:.4f}" if isinstance(value, int | float) else "-"
            lines.append(
                f"| {result['title']} | {model} | {result['split']} | {result['prompt']} "
                f"| {result.get('prompt_format') or '-'} | {counted} | {protocol} "
                f"| {result['primary_metric']} | {shown} |"
            )
    return "\n".join(lines)


def _protocols(comparisons: Sequence[PublishedComparison]) -> str:
    names = dict.fromkeys(
        f"{entry.task} ({entry.split}, prompt {entry.prompt}{', raw' if entry.prompt_format == 'raw' else ''}): "
        f"{entry.protocol}"
        for entry in comparisons
    )
    return "Protocols of ours: " + ", ".join(names) + "."
