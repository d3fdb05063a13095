"""Takes the answers of another program as predictions of a task, to score them by the same rules on the same samples.

LLaVA's and most other harnesses write a JSON line, or an element of a JSON list, for each question: its id
(`question_id`) and the answer (`text`).
"""

from collections.abc import Iterator
from pathlib import Path

from owl2.data.annotations import Row, line_rows, numbered, read_json
from owl2.files import file_sha256

from .plan import Settings, plan_task
from .prediction_files import PREDICTIONS, record_of, write_predictions
from .task import Sample, Task

ID_FIELDS = ("question_id", "questionId", "id", "index", "image_id")
ANSWER_FIELDS = ("text", "answer", "prediction", "pred", "response", "output", "caption")


def adopt_answers(task: Task, file: Path, settings: Settings) -> Path:
    """Writes the answers of a file as predictions of a task.

    Args:
        settings: Root of the data, directory of the predictions, split and prompt.

    Returns:
        The directory of the predictions, ready for `score_directory`.

    Raises:
        ValueError: The file or the data is missing or broken; a sample has no answer, or two; an answer belongs to no
            sample; the task ranks choices; the directory holds predictions already.
    """
    model = {"name": file.name, "answers_sha256": file_sha256(file) if file.is_file() else None}
    planned = plan_task(task, settings, {"model": model})
    if any(sample.choices for sample in planned.samples):
        raise ValueError(f"{task.title} ranks choices by their likelihood here: answers alone cannot be scored")
    answers = read_answers(file)
    _check_ids(task, file, planned.samples, answers)
    target = planned.directory / PREDICTIONS
    if target.exists():
        raise ValueError(f"{target} exists already: give another --out")
    planned.directory.mkdir(parents=True, exist_ok=True)
    records = [record_of(sample, sample.prompt, answers[sample.id]) for sample in planned.samples]
    write_predictions(target, planned.header, records, None)
    return planned.directory


def read_answers(file: Path) -> dict[str, str]:
    """Reads each answer by the id of its question.

    Raises:
        ValueError: A field is missing, or an id comes twice; the message names file and record.
    """
    answers: dict[str, str] = {}
    for row in _rows(file):
        name, answer = _field(row, ID_FIELDS), _field(row, ANSWER_FIELDS)
        value = row.values[name]
        key = str(row.integer(name)) if isinstance(value, int | float) else row.string(name)
        if key in answers:
            raise row.error(f"the {name} {key!r} comes a second time")
        answers[key] = row.string(answer)
    return answers


def _rows(file: Path) -> Iterator[Row]:
    if not file.is_file():
        raise ValueError(f"there is no file of answers {file}")
    with file.open("rb") as opened:
        is_list = opened.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
    if is_list:
        yield from numbered(read_json(file), file)
    else:
        yield from (row for _, row in line_rows(file))


def _field(row: Row, names: tuple[str, ...]) -> str:
    found = next((name for name in names if row.values.get(name) is not None), None)
    if found is None:
        raise row.error(f"has none of the fields {', '.join(names)}; it has {sorted(row.values)!r:.200}")
    return found


def _check_ids(task: Task, file: Path, samples: list[Sample], answers: dict[str, str]) -> None:
    wanted = {sample.id for sample in samples}
    lacking = [sample.id for sample in samples if sample.id not in answers]
    unknown = [name for name in answers if name not in wanted]
    if not lacking and not unknown:
        return
    problems = []
    if lacking:
        problems.append(
            f"{len(lacking)} of {len(samples)} samples of {task.title} have no answer, first {lacking[0]!r}"
        )
    if unknown:
        problems.append(f"{len(unknown)} of {len(answers)} answers are of no sample, first {unknown[0]!r}")
    raise ValueError(f"{file}: {'; '.join(problems)}. Is it another split (--split), or do its ids count otherwise?")
