"""VQAv2, OKVQA, GQA and OCR-VQA: one answer a question, the questions of an image in one conversation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from owl2.data.sources import gqa, ocr_vqa, okvqa, vqav2
from owl2.data.sources.vqa_annotations import most_confident_answer

SHORT = " Answer the question using a single word or phrase."
Write = Callable[[str, Any], Path]
Spoken = Callable[[Any], list[tuple[str, str]]]


def questions_file(*questions: tuple[int, int, str]) -> dict[str, Any]:
    rows = [{"image_id": image, "question": text, "question_id": number} for number, image, text in questions]
    head = {"info": {}, "task_type": "Open-Ended", "data_type": "mscoco", "license": {}, "data_subtype": "train2014"}
    return {**head, "questions": rows}


def annotations_file(*annotations: tuple[int, int, list[tuple[str, str]]]) -> dict[str, Any]:
    rows = [
        {
            "question_id": number,
            "image_id": image,
            "question_type": "what",
            "answer_type": "other",
            "multiple_choice_answer": "never read",
            "answers": [
                {"answer": answer, "answer_confidence": confidence, "answer_id": index}
                for index, (answer, confidence) in enumerate(answers, start=1)
            ],
        }
        for number, image, answers in annotations
    ]
    return {"info": {}, "data_type": "mscoco", "license": {}, "data_subtype": "train2014", "annotations": rows}


@pytest.fixture
def vqa_files(write: Write) -> tuple[Path, Path]:
    questions = [(10, 1, "What?"), (11, 2, "Where?"), (12, 1, "Who? "), (13, 1, "Why?")]
    annotations = [(number, image, [(f"a{number}", "yes")] * 10) for number, image, _ in reversed(questions)]
    return write("questions.json", questions_file(*questions)), write("answers.json", annotations_file(*annotations))


@pytest.mark.parametrize(
    ("answers", "best"),
    [
        ([("cat", "no"), ("cat", "no"), ("dog", "yes")], "cat"),  # most annotators, however unsure
        ([("cat", "maybe"), ("dog", "yes"), ("cat", "maybe"), ("dog", "no")], "dog"),  # one yes is more than none
        ([("cat", "yes"), ("dog", "yes"), ("cat", "no"), ("dog", "maybe")], "dog"),  # as many yes, more maybe
        ([("dog", "no"), ("cat", "no")], "dog"),  # the first in the file
        ([("", "yes"), (" ", "yes"), ("cat", "no")], "cat"),
        ([("", "yes")], None),
        ([], None),
    ],
)
def test_the_most_confident_answer_follows_the_stated_rule(answers: list[tuple[str, str]], best: str | None) -> None:
    assert most_confident_answer(answers) == best


@pytest.mark.parametrize("source", [vqav2, okvqa])
def test_questions_of_an_image_become_one_conversation(
    source: Any, vqa_files: tuple[Path, Path], spoken: Spoken
) -> None:
    first, second = source.conversations(*vqa_files, "coco")
    assert first.images == ("coco/train2014/COCO_train2014_000000000001.jpg",)
    assert second.images == ("coco/train2014/COCO_train2014_000000000002.jpg",)
    turns = spoken(first)
    assert [role for role, _ in turns] == ["user", "assistant"] * 3
    exchanges = {(turns[index][1], turns[index + 1][1]) for index in (0, 2, 4)}
    assert exchanges == {(f"What?{SHORT}", "a10"), (f"Who?{SHORT}", "a12"), (f"Why?{SHORT}", "a13")}
    assert spoken(second) == [("user", f"Where?{SHORT}"), ("assistant", "a11")]


def test_the_order_of_questions_depends_on_seed_and_epoch_alone(vqa_files: tuple[Path, Path]) -> None:
    def order(seed: int, epoch: int) -> Any:
        return next(vqav2.conversations(*vqa_files, "", seed=seed, epoch=epoch)).messages

    assert order(0, 0) == order(0, 0)
    assert len({str(order(0, epoch)) for epoch in range(20)}) > 3
    assert len({str(order(seed, 0)) for seed in range(20)}) > 3


def test_okvqa_learns_the_answer_that_its_benchmark_compares_with(write: Write, spoken: Spoken) -> None:
    annotations = annotations_file((1, 1, [("race", "yes")]))
    annotations["annotations"][0]["answers"][0]["raw_answer"] = "racing"
    files = write("questions.json", questions_file((1, 1, "What sport?"))), write("answers.json", annotations)
    assert spoken(next(okvqa.conversations(*files, "")))[1] == ("assistant", "race")


@pytest.mark.parametrize(
    ("questions", "annotations", "problem"),
    [
        ([(1, 1, "a?"), (2, 1, "b?")], [(1, 1, "yes")], r"questions\.json, record 2: question 2 .*has no annotation"),
        ([(1, 1, "a?"), (1, 1, "a?")], [(1, 1, "yes")], r"questions\.json, record 2: question 1 occurs twice"),
        ([(1, 1, "a?")], [(1, 2, "yes")], r"questions\.json, record 1: question 1 is about image 1, but .* image 2"),
        ([(1, 1, "a?")], [(1, 1, "yes"), (5, 1, "yes")], r"questions\.json: 1 annotations .* such as 5"),
        ([(1, 1, "a?")], [(1, 1, "yes"), (1, 1, "yes")], r"answers\.json, record 2: question 1 is annotated twice"),
        ([(1, 1, "a?")], [(1, 1, "sure")], r"answers\.json, record 1, answers\[0\]: answer_confidence is 'sure'"),
        ([(1, 1, " ")], [(1, 1, "yes")], r"questions\.json, record 1: 'question' is empty"),
    ],
)
def test_questions_and_annotations_that_do_not_fit_are_named(
    write: Write, questions: Any, annotations: Any, problem: str
) -> None:
    answers = [(number, image, [("cat", confidence)]) for number, image, confidence in annotations]
    files = write("questions.json", questions_file(*questions)), write("answers.json", annotations_file(*answers))
    with pytest.raises(ValueError, match=problem):
        list(vqav2.conversations(*files, "coco"))


def test_a_question_with_only_empty_answers_is_named(write: Write) -> None:
    files = (
        write("questions.json", questions_file((1, 1, "a?"))),
        write("answers.json", annotations_file((1, 1, [("", "yes")]))),
    )
    with pytest.raises(ValueError, match=r"answers\.json, record 1: question 1 has only empty answers"):
        list(vqav2.conversations(*files, "coco"))


def test_a_subtype_that_climbs_out_of_the_image_root_is_refused(write: Write) -> None:
    questions = {**questions_file((1, 1, "a?")), "data_subtype": "../../x"}
    files = write("questions.json", questions), write("answers.json", annotations_file((1, 1, [("cat", "yes")])))
    with pytest.raises(ValueError, match=r"questions\.json, record 1: the image .* not a file under the image root"):
        list(vqav2.conversations(*files, "coco"))


def gqa_question(image: str, question: str, answer: str, balanced: bool = True) -> dict[str, Any]:
    full = f"It is {answer}."
    return {"imageId": image, "question": question, "answer": answer, "fullAnswer": full, "isBalanced": balanced}


def test_balanced_gqa_questions_are_merged_by_image_with_their_short_answers(write: Write, spoken: Spoken) -> None:
    questions = {
        "00": gqa_question("n161313", "Is it red?", "no"),
        "01": gqa_question("2354786", "What is it?", "table"),
        "02": gqa_question("n161313", "Is it blue?", "yes", balanced=False),
        "03": gqa_question("n161313", "Which side?", "left"),
    }
    first, second = gqa.conversations(write("train_balanced_questions.json", questions), "gqa/images")
    assert (first.images, second.images) == (("gqa/images/n161313.jpg",), ("gqa/images/2354786.jpg",))
    assert set(spoken(first)) == {
        ("user", f"Is it red?{SHORT}"),
        ("assistant", "no"),
        ("user", f"Which side?{SHORT}"),
        ("assistant", "left"),
    }
    assert spoken(second) == [("user", f"What is it?{SHORT}"), ("assistant", "table")]


def test_a_broken_gqa_question_is_named_with_its_key(write: Write) -> None:
    questions = {"00": gqa_question("1", "a?", "b"), "07": gqa_question("../1", "a?", "b")}
    with pytest.raises(ValueError, match=r"train\.json, record 2 \('07'\): the image"):
        list(gqa.conversations(write("train.json", questions), "gqa"))


def book(split: int = 1, **changes: Any) -> dict[str, Any]:
    fields = {
        "imageURL": "http://ecx.images-amazon.com/images/I/51UWuoqAFmL.jpg",
        "questions": ["Who wrote this book?", "Is this a cookbook?"],
        "answers": ["Mary Calhoun", "No"],
        "title": "Hot-Air Henry",
        "authorName": "Mary Calhoun",
        "genre": "Children's Books",
        "split": split,
    }
    return {**fields, **changes}


def test_train_books_of_ocr_vqa_become_one_conversation_each(write: Write, spoken: Spoken) -> None:
    books = {"0688006434": book(), "1": book(2), "2": book(3), "3": book(imageURL="http://host/x.gif?size=2")}
    first, second = ocr_vqa.conversations(write("dataset.json", books), "covers")
    assert (first.images, second.images) == (("covers/0688006434.jpg",), ("covers/3.gif",))
    turns = spoken(first)
    assert {(turns[0][1], turns[1][1]), (turns[2][1], turns[3][1])} == {
        (f"Who wrote this book?{SHORT}", "Mary Calhoun"),
        (f"Is this a cookbook?{SHORT}", "No"),
    }


@pytest.mark.parametrize(
    ("key", "changes", "problem"),
    [
        ("b", {"answers": ["one"]}, "has 2 questions, but 1 answers"),
        ("b", {"answers": ["one", ""]}, r"answers\[1\] is '', not a text"),
        ("b", {"imageURL": "http://host/x"}, "does not end like the name of an image file"),
        ("../b", {}, "not a file under the image root"),
    ],
)
def test_a_broken_book_is_named_with_its_key(write: Write, key: str, changes: dict[str, Any], problem: str) -> None:
    file = write("dataset.json", {"a": book(), key: book(**changes)})
    with pytest.raises(ValueError, match=rf"dataset\.json, record 2 \('{key}'\): .*{problem}"):
        list(ocr_vqa.conversations(file, "covers"))
