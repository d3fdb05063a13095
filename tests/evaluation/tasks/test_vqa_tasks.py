"""VQAv2, OK-VQA, VizWiz and TextVQA, from files in their official forms to scores and submissions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from owl2.evaluation.metrics import vqa_accuracy
from owl2.evaluation.plan import Settings, plan_task
from owl2.evaluation.prediction_files import PREDICTIONS, read_predictions
from owl2.evaluation.results.report import compare, read_results
from owl2.evaluation.results.scoring import score_directory, write_submission
from owl2.evaluation.tasks import task_named

INSTRUCTION = "Answer the question using a single word or phrase."
ANSWERS = [
    ["yes"] * 10,
    ["2"] * 2 + ["two"] * 8,
    ["cat"] * 3 + ["dog"] * 7,
    ["red"] * 1 + ["Red"] * 1 + ["the blue"] * 8,
    ["no"] * 6 + ["yes"] * 4,
]
GIVEN = ["Yes", "2", "A cat.", "red", "maybe"]
TYPES = ["yes/no", "number", "other", "other", "yes/no"]


def question(number: int, **changes: Any) -> dict[str, Any]:
    return {"image_id": number // 3, "question": f"What is number {number}?", "question_id": 10 + number, **changes}


def annotation(number: int, stemmed: bool = False, **changes: Any) -> dict[str, Any]:
    answers = [
        {"answer": text, "answer_confidence": "yes", "answer_id": place, **({"raw_answer": text} if stemmed else {})}
        for place, text in enumerate(ANSWERS[number % 5], start=1)
    ]
    fields = {
        "question_id": 10 + number,
        "image_id": number // 3,
        "question_type": "what is" if number % 2 else "is the",
        "answer_type": TYPES[number % 5],
        "multiple_choice_answer": answers[0]["answer"],
        "answers": answers,
    }
    return {**fields, **changes}


def questions_file(subtype: str, questions: list[dict[str, Any]]) -> dict[str, Any]:
    kind = {"task_type": "Open-Ended", "data_type": "mscoco", "data_subtype": subtype}
    return {"info": {}, **kind, "license": {}, "questions": questions}


def write_val(
    root: Path, write: Callable[..., Path], questions: list[Any], annotations: list[Any], version: str = "v2_"
) -> None:
    folder = root / ("vqav2" if version else "okvqa")
    write(folder / f"{version}OpenEnded_mscoco_val2014_questions.json", questions_file("val2014", questions))
    contents = {"info": {}, "data_subtype": "val2014", "annotations": annotations}
    write(folder / f"{version}mscoco_val2014_annotations.json", contents)


@pytest.fixture
def coco_files(tmp_path: Path, write_json: Callable[..., Path], draw: Callable[..., Path]) -> Path:
    """Ten questions of VQAv2 val and OK-VQA, and of VQAv2's test2015, of which four are of test-dev."""
    numbers = range(10)
    write_val(tmp_path, write_json, [question(n) for n in numbers], [annotation(n) for n in reversed(numbers)])
    write_val(tmp_path, write_json, [question(n) for n in numbers], [annotation(n, stemmed=True) for n in numbers], "")
    for subtype, chosen in (("test2015", numbers), ("test-dev2015", (1, 2, 5, 8))):
        name = f"v2_OpenEnded_mscoco_{subtype}_questions.json"
        write_json(tmp_path / "vqav2" / name, questions_file(subtype, [question(n) for n in chosen]))
    for part in ("val2014", "test2015"):
        for image in range(4):
            draw(tmp_path / "coco" / part / f"COCO_{part}_{image:012d}.jpg")
    return tmp_path


@pytest.fixture
def vizwiz_files(tmp_path: Path, write_json: Callable[..., Path], draw: Callable[..., Path]) -> Path:
    for split, count in (("val", 10), ("test", 3)):
        rows = []
        for number in range(count):
            image = f"VizWiz_{split}_{number:08d}.jpg"
            draw(tmp_path / "vizwiz" / split / image)
            answers = [{"answer": text, "answer_confidence": "maybe"} for text in ANSWERS[number % 5]]
            known = {"answers": answers, "answer_type": TYPES[number % 5], "answerable": 1} if split == "val" else {}
            rows.append({"image": image, "question": "what IS this?", **known})
        write_json(tmp_path / "vizwiz" / "Annotations" / f"{split}.json", rows)
    return tmp_path


@pytest.fixture
def textvqa_files(tmp_path: Path, write_json: Callable[..., Path], draw: Callable[..., Path]) -> Path:
    rows = []
    for number in range(10):
        image = f"{number // 2:016x}"
        draw(tmp_path / "textvqa" / "train_images" / f"{image}.jpg")
        fields = {"question_id": 34602 + number, "image_id": image, "image_classes": ["Sign"], "set_name": "val"}
        rows.append({"question": "what Does it say?", "answers": ANSWERS[number % 5], **fields})
    contents = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": rows}
    write_json(tmp_path / "textvqa" / "TextVQA_0.5.1_val.json", contents)
    return tmp_path


def write_ocr_words(root: Path, write_json: Callable[..., Path], images: int = 5) -> None:
    rows = [
        {"image_id": f"{image:016x}", "ocr_tokens": ["STOP", "4", "ways"][: image % 4], "ocr_info": []}
        for image in range(images)
    ]
    write_json(root / "textvqa" / "TextVQA_Rosetta_OCR_v0.2_val.json", {"data": rows})


@pytest.mark.parametrize(
    ("name", "files", "protocols", "published"),
    [
        ("vqav2", "coco_files", ["vqa_official", "vqa_owl2"], 79.4),
        ("okvqa", "coco_files", ["vqa_official", "vqa_owl2"], 57.7),
        ("vizwiz", "vizwiz_files", ["vizwiz_official", "vqa_official", "vqa_m4c"], 54.5),
        ("textvqa", "textvqa_files", ["vqa_m4c", "vqa_official", "vqa_owl2"], 54.3),
    ],
)
def test_questions_go_from_files_to_accuracy_beside_the_published_one(
    name: str,
    files: str,
    protocols: list[str],
    published: float,
    predicted: Callable[..., Path],
    request: pytest.FixtureRequest,
) -> None:
    directory = predicted(name, request.getfixturevalue(files))
    result = score_directory(directory)
    header, records = read_predictions(directory / PREDICTIONS)
    assert len(records) == 10 and header["decoding"]["max_new_tokens"] == 10
    for record in records:
        assert record.prompt.startswith("USER: <|image|>") and record.prompt.endswith(f"? {INSTRUCTION} ASSISTANT: ")
    assert list(result["protocols"]) == protocols
    for protocol in protocols:
        accuracies = [vqa_accuracy(record.answer, record.gold, protocol) for record in records]
        assert result["protocols"][protocol]["summary"]["accuracy"] == pytest.approx(sum(accuracies) / 10)
    found = compare(read_results([directory]))
    compared = "vqa_owl2" if name in ("okvqa", "textvqa") else protocols[0]  # what the official scripts score with
    assert {entry.published for entry in found} == {published} and {entry.protocol for entry in found} == {compared}
    assert any("val" in reason for entry in found for reason in entry.reasons) is (name in ("vqav2", "vizwiz"))


def test_accuracy_and_its_kinds_are_those_worked_out_by_hand(coco_files: Path, answered: Callable[..., Any]) -> None:
    given = {str(10 + number): GIVEN[number % 5] for number in range(10)}
    records = answered("vqav2", coco_files, given)
    # Ten agree on `yes`: compared as it is, `Yes` is wrong. `two` is 2. Three say cat: 0.9. `red` and `Red`: 0.6.
    scores = task_named("vqav2").score(records, "vqa_official")
    assert scores.scores == pytest.approx([0, 1, 0.9, 0.6, 0] * 2)
    assert scores.summary["accuracy"] == pytest.approx(0.5)
    assert scores.summary["per_answer_type"] == {"number": 1, "other": pytest.approx(0.75), "yes/no": 0}
    assert scores.summary["per_question_type"] == {"is the": pytest.approx(0.5), "what is": pytest.approx(0.5)}
    assert scores.parsed[:3] == ["Yes", "2", "cat"]
    # The scripts of mPLUG-Owl2 normalise the prediction always, and leave `two` and `Red` as they are.
    assert task_named("vqav2").score(records, "vqa_owl2").scores == pytest.approx([1, 0.6, 0.9, 0.3, 0] * 2)
    assert records[0].gold == ["yes"] * 10 and records[1].gold[-1] == "two"


def test_vizwiz_compares_answers_as_they_are_and_textvqa_normalises_both(
    vizwiz_files: Path, textvqa_files: Path, answered: Callable[..., Any]
) -> None:
    names = {f"VizWiz_val_{number:08d}.jpg": GIVEN[number % 5] for number in range(10)}
    vizwiz = task_named("vizwiz").score(answered("vizwiz", vizwiz_files, names), "vizwiz_official")
    assert vizwiz.scores == pytest.approx([1, 0.6, 0.9, 0.3, 0] * 2)
    assert vizwiz.summary["per_answer_type"]["number"] == pytest.approx(0.6)
    numbers = {str(34602 + number): GIVEN[number % 5] for number in range(10)}
    textvqa = task_named("textvqa").score(answered("textvqa", textvqa_files, numbers), "vqa_m4c")
    assert textvqa.scores == pytest.approx([1, 1, 0.9, 0.6, 0] * 2)
    assert textvqa.summary == {"accuracy": pytest.approx(0.7), "without_ocr": pytest.approx(0.7)}


def test_prompts_are_those_that_the_programs_send(vizwiz_files: Path, coco_files: Path) -> None:
    unanswerable = "When the provided information is insufficient, respond with 'Unanswerable'."
    for name, root, prompt, expected in [
        ("vqav2", coco_files, "space", f"What is number 0? {INSTRUCTION}"),
        ("vqav2", coco_files, "newline", f"What is number 0?\n{INSTRUCTION}"),
        ("okvqa", coco_files, "newline", f"What is number 0?\n{INSTRUCTION}"),
        ("vizwiz", vizwiz_files, "space", f"what IS this? {INSTRUCTION}"),
        ("vizwiz", vizwiz_files, "unanswerable", f"what IS this?\n{unanswerable}\n{INSTRUCTION}"),
        ("vizwiz", vizwiz_files, "unanswerable_capitalized", f"What is this?\n{unanswerable}\n{INSTRUCTION}"),
    ]:
        assert task_named(name).load(root, "val", prompt)[0].prompt == expected
    assert "unanswerable" not in task_named("okvqa").prompts


def test_textvqa_puts_the_ocr_words_between_question_and_instruction(
    textvqa_files: Path, write_json: Callable[..., Path], predicted: Callable[..., Path]
) -> None:
    task = task_named("textvqa")
    with pytest.raises(ValueError, match=r"needs .*TextVQA_Rosetta_OCR_v0\.2_val\.json, which was not found"):
        task.load(textvqa_files, "val", "ocr")
    write_ocr_words(textvqa_files, write_json)
    prompts = [sample.prompt for sample in task.load(textvqa_files, "val", "ocr")]
    assert prompts[4] == f"what Does it say?\nReference OCR token: STOP, 4\n{INSTRUCTION}"
    assert prompts[0] == f"what Does it say?\nReference OCR token: \n{INSTRUCTION}"
    capitalized = task.load(textvqa_files, "val", "ocr_capitalized")[4].prompt
    assert capitalized == f"What does it say?\nReference OCR token: STOP, 4\n{INSTRUCTION}"
    directory = predicted("textvqa", textvqa_files, prompt="ocr")
    summary = score_directory(directory)["protocols"]["vqa_m4c"]["summary"]
    assert summary["with_ocr"] == summary["accuracy"] and "without_ocr" not in summary
    assert {entry.published for entry in compare(read_results([directory]))} == {58.2}
    assert len(read_predictions(directory / PREDICTIONS)[0]["data"]) == 2
    write_ocr_words(textvqa_files, write_json, images=4)
    with pytest.raises(ValueError, match=r"TextVQA_0\.5\.1_val\.json, record 9: image '0+4' has no record"):
        task.load(textvqa_files, "val", "ocr")


def test_vqav2s_submission_answers_every_question_of_test2015(coco_files: Path, predicted: Callable[..., Path]) -> None:
    directory = predicted("vqav2", coco_files, split="test-dev")
    lines = (directory / PREDICTIONS).read_text().splitlines()
    said = ["A Dog's bed, 2", "two", "1,000 t-shirts", "None"]
    changed = [json.dumps({**json.loads(line), "raw": raw}) for line, raw in zip(lines[1:], said, strict=True)]
    (directory / PREDICTIONS).write_text("\n".join([lines[0], *changed]) + "\n")
    path = write_submission(directory, directory / "server")
    entries = json.loads(path.read_text())
    assert all(set(entry) == {"question_id", "answer"} for entry in entries)
    given = {entry["question_id"]: entry["answer"] for entry in entries}
    assert len(entries) == 10 and set(given) == set(range(10, 20))
    assert {key: answer for key, answer in given.items() if answer} == {
        11: "dog 's bed 2",
        12: "2",
        15: "1000 t shirts",
        18: "0",
    }
    assert score_directory(directory)["protocols"]["vqa_official"]["summary"] == {"without_gold": 4}
    assert compare(read_results([directory])) == []  # no score, nothing to compare


def test_the_whole_test_split_is_a_submission_too(coco_files: Path, predicted: Callable[..., Path]) -> None:
    path = write_submission(predicted("vqav2", coco_files, split="test"), coco_files)
    assert [entry["question_id"] for entry in json.loads(path.read_text())] == list(range(10, 20))


def test_vizwizs_submission_names_every_test_image_once(vizwiz_files: Path, predicted: Callable[..., Path]) -> None:
    directory = predicted("vizwiz", vizwiz_files, split="test")
    entries = json.loads(write_submission(directory, directory / "server").read_text())
    assert [entry["image"] for entry in entries] == [f"VizWiz_test_{number:08d}.jpg" for number in range(3)]
    assert all(set(entry) == {"image", "answer"} and isinstance(entry["answer"], str) for entry in entries)


def converted(rows: list[dict[str, Any]], as_list: bool) -> str:
    return json.dumps(rows) if as_list else "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("as_list", [True, False])
def test_files_converted_by_qwen_vl_are_the_same_samples(
    as_list: bool, vizwiz_files: Path, textvqa_files: Path, write_json: Callable[..., Path]
) -> None:
    """The scripts of mPLUG-Owl2 read them, as JSON lists in files named `.jsonl` (specification, 0.2 and 2.4)."""
    for name, root, image_name in (
        ("vizwiz", vizwiz_files, lambda number: f"data/vizwiz/val/VizWiz_val_{number:08d}.jpg"),
        ("textvqa", textvqa_files, lambda number: f"data/textvqa/train_images/{number // 2:016x}.jpg"),
    ):
        task = task_named(name)
        before = task.load(root, "val", "space")
        numbers = [int(sample.id) if name == "textvqa" else index for index, sample in enumerate(before)]
        text = "what IS this?" if name == "vizwiz" else "what Does it say?"
        rows = [
            {"image": image_name(index), "question": text, "question_id": number, "answer": "yes"}
            for index, number in enumerate(numbers)
        ]
        (root / name / f"{name}_val.jsonl").write_text(converted(rows, as_list))
        annotations = [
            {**annotation(index), "question_id": number, "answerable": 1} for index, number in enumerate(numbers)
        ]
        write_json(root / name / f"{name}_val_annotations.json", {"annotations": annotations[::-1]})
        assert len(task.files(root, "val")) == 1  # the originals come first
        task.files(root, "val")[0].unlink()
        assert [path.name for path in task.files(root, "val")] == [f"{name}_val.jsonl", f"{name}_val_annotations.json"]
        assert task.load(root, "val", "space") == before
        write_json(root / name / f"{name}_val_annotations.json", {"annotations": annotations[1:]})
        with pytest.raises(ValueError, match=rf"{name}_val\.jsonl, record 1: question \d+ .* has no annotation"):
            task.load(root, "val", "space")


def test_the_converted_test_split_of_vizwiz_has_no_answers(vizwiz_files: Path) -> None:
    task = task_named("vizwiz")
    before = task.load(vizwiz_files, "test", "space")
    task.files(vizwiz_files, "test")[0].unlink()
    names = [sample.id for sample in before]
    rows = [{"image": f"data/vizwiz/test/{name}", "question": "what IS this?", "question_id": name} for name in names]
    (vizwiz_files / "vizwiz" / "vizwiz_test.jsonl").write_text(converted(rows, False))
    assert task.load(vizwiz_files, "test", "space") == before


def test_vizwiz_tells_how_well_unanswerable_questions_are_found(
    vizwiz_files: Path, answered: Callable[..., Any], write_json: Callable[..., Path]
) -> None:
    names = {f"VizWiz_val_{number:08d}.jpg": "Unanswerable." if number in (0, 1) else "x" for number in range(10)}
    (file,) = task_named("vizwiz").files(vizwiz_files, "val")
    rows = json.loads(file.read_text())
    write_json(file, [{**row, "answerable": int(index not in (1, 2, 3))} for index, row in enumerate(rows)])
    records = answered("vizwiz", vizwiz_files, names)
    summary = task_named("vizwiz").score(records, "vizwiz_official").summary
    # Of three one is found, and one of two found ones is right: F1 2/5; AP 1/3 * 1/2 + 2/3 * 3/10.
    assert summary["unanswerable_f1"] == pytest.approx(0.4)
    assert summary["unanswerable_average_precision"] == pytest.approx(1 / 6 + 1 / 5)
    assert "unanswerable_f1" not in task_named("vizwiz").score(records, "vqa_m4c").summary
    write_json(file, [{**row, "answerable": 2} for row in rows])
    with pytest.raises(ValueError, match=r"val\.json, record 1: 'answerable' is 2, not 0 or 1"):
        task_named("vizwiz").load(vizwiz_files, "val", "space")


def test_what_no_server_takes_is_refused(coco_files: Path, predicted: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="predictions of a split with public answers"):
        write_submission(predicted("vqav2", coco_files), coco_files)
    with pytest.raises(ValueError, match="OK-VQA has no submission to an evaluation server"):
        write_submission(predicted("okvqa", coco_files), coco_files)


@pytest.mark.parametrize(
    ("broken_question", "broken_annotation", "problem"),
    [
        ({"question": ""}, {}, r"questions\.json, record 2: 'question' is empty"),
        ({"question_id": "11"}, {}, r"questions\.json, record 2: 'question_id' is '11', not an integer"),
        ({"question_id": 10}, {}, r"questions\.json, record 2: question 10 occurs twice"),
        ({"image_id": 7}, {}, r"annotations\.json, record 2: question 11 is about image 0, not 7"),
        ({}, {"question_id": 10}, r"annotations\.json, record 2: question 10 is annotated twice"),
        ({}, {"answers": annotation(1)["answers"][:9]}, r"annotations\.json, record 2: has 9 human answers, not ten"),
        ({}, {"answers": ["2"] * 10}, r"annotations\.json, record 2, answers\[0\]: expected a JSON object"),
        ({}, {"answer_type": "colour"}, r"annotations\.json, record 2: 'answer_type' is 'colour', not one of yes/no"),
    ],
)
def test_a_broken_question_or_annotation_is_named_by_file_and_record(
    broken_question: dict[str, Any],
    broken_annotation: dict[str, Any],
    problem: str,
    tmp_path: Path,
    write_json: Callable[..., Path],
) -> None:
    questions = [question(0), question(1, **broken_question)]
    write_val(tmp_path, write_json, questions, [annotation(0), annotation(1, **broken_annotation)])
    with pytest.raises(ValueError, match=problem):
        task_named("vqav2").load(tmp_path, "val", "space")


def test_files_that_do_not_belong_together_are_refused(coco_files: Path, write_json: Callable[..., Path]) -> None:
    task = task_named("vqav2")
    write_val(coco_files, write_json, [question(0)], [annotation(0), annotation(1)])
    with pytest.raises(ValueError, match="1 annotations are of questions it lacks, such as 11"):
        task.load(coco_files, "val", "space")
    write_val(coco_files, write_json, [question(0)], [annotation(0)], "")
    with pytest.raises(ValueError, match=r"answers\[0\]: has no 'raw_answer'"):
        task_named("okvqa").load(coco_files, "val", "space")
    test_dev = coco_files / "vqav2" / "v2_OpenEnded_mscoco_test-dev2015_questions.json"
    write_json(test_dev, questions_file("test-dev2015", [question(1), question(30)]))
    with pytest.raises(ValueError, match=r"test-dev2015_questions\.json, record 2: question 40 is not in .*test2015"):
        task.load(coco_files, "test-dev", "space")
    write_json(test_dev, questions_file("val2014", [question(1)]))
    with pytest.raises(ValueError, match="'data_subtype' is 'val2014', not test-dev2015"):
        task.load(coco_files, "test-dev", "space")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"answers": ANSWERS[0][:3]}, "has 3 human answers, not ten"),
        ({"answers": [{"answer": "yes"}] * 10}, "'answer' is .*, not a string"),
        ({"image_id": "../secret"}, "is not a file under the image root"),
    ],
)
def test_a_broken_row_of_textvqa_is_named(
    changes: dict[str, Any], problem: str, tmp_path: Path, write_json: Callable[..., Path]
) -> None:
    row = {"question": "what?", "question_id": 1, "image_id": "a", "answers": ANSWERS[0], **changes}
    write_json(tmp_path / "textvqa" / "TextVQA_0.5.1_val.json", {"data": [row]})
    with pytest.raises(ValueError, match=rf"TextVQA_0\.5\.1_val\.json, record 1: .*{problem}"):
        task_named("textvqa").load(tmp_path, "val", "space")


def test_a_missing_image_stops_before_any_model_is_needed(coco_files: Path, vizwiz_files: Path) -> None:
    (coco_files / "coco" / "test2015" / "COCO_test2015_000000000002.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of 3 images or videos are missing, first .*test2015_0+2\.jpg"):
        plan_task(task_named("vqav2"), Settings(coco_files, coco_files / "out", split="test-dev"), {})
    (vizwiz_files / "vizwiz" / "test" / "VizWiz_test_00000001.jpg").unlink()
    with pytest.raises(ValueError, match=r"VizWiz: 1 of 3 images .*VizWiz_test_00000001\.jpg.*vizwiz\.org"):
        plan_task(task_named("vizwiz"), Settings(vizwiz_files, vizwiz_files / "out", split="test"), {})
