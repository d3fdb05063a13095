"""COCO Caption and Flickr30K, from files in their official forms to CIDEr."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from owl2.evaluation.metrics import caption_scores
from owl2.evaluation.plan import Settings, plan_task
from owl2.evaluation.prediction_files import PREDICTIONS, read_predictions
from owl2.evaluation.results.report import compare, read_results
from owl2.evaluation.results.scoring import score_directory
from owl2.evaluation.tasks import task_named

WORDS = [
    ["a", "b", "c", "d", "e"],
    ["red", "cars", "stand", "near", "houses"],
    ["two", "dogs", "chase", "yellow", "balls"],
    ["old", "trains", "leave", "snowy", "stations"],
]


def karpathy_image(number: int, split: str = "test", **changes: Any) -> dict[str, Any]:
    captions = [" ".join(WORDS[number % 4]) + ".", f"Picture {number}, seen from afar"]
    image = {
        "filepath": "val2014",
        "filename": f"COCO_val2014_{number:012d}.jpg",
        "cocoid": number,
        "imgid": number + 1000,
        "sentids": [2 * number, 2 * number + 1],
        "split": split,
        "sentences": [
            {"raw": text, "tokens": ["not", "these"], "imgid": number + 1000, "sentid": 2 * number + index}
            for index, text in enumerate(captions)
        ],
    }
    return {**image, **changes}


@pytest.fixture
def coco(tmp_path: Path, write_json: Callable[..., Path], draw: Callable[..., Path]) -> Path:
    """Ten test images among others, in Karpathy's form."""
    images = [karpathy_image(100, "train", filepath="train2014"), karpathy_image(101, "restval")]
    images += [karpathy_image(number) for number in range(10)] + [karpathy_image(102, "val")]
    write_json(tmp_path / "coco" / "dataset_coco.json", {"images": images, "dataset": "coco"})
    for number in range(10):
        draw(tmp_path / "coco" / "val2014" / f"COCO_val2014_{number:012d}.jpg")
    return tmp_path


@pytest.fixture
def flickr(tmp_path: Path, write_json: Callable[..., Path], draw: Callable[..., Path]) -> Path:
    """Ten test images in the form that the scripts of mPLUG-Owl2 read."""
    images = [{"id": number, "image": f"data/flickr30k/flickr30k-images/{number}.jpg"} for number in range(10)]
    annotations = [
        {"image_id": number, "id": 2 * number + index, "caption": sentence["raw"]}
        for number in range(10)
        for index, sentence in enumerate(karpathy_image(number)["sentences"])
    ]
    contents = {"images": images, "annotations": annotations}
    write_json(tmp_path / "flickr30k" / "flickr30k_karpathy_test.json", contents)
    for number in range(10):
        draw(tmp_path / "flickr30k" / "flickr30k-images" / f"{number}.jpg")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "files", "published"), [("coco_caption", "coco", 137.3), ("flickr30k", "flickr", 85.1)]
)
def test_captions_go_from_files_to_cider_beside_the_published_one(
    name: str, files: str, published: float, predicted: Callable[..., Path], request: pytest.FixtureRequest
) -> None:
    directory = predicted(name, request.getfixturevalue(files))
    summary = score_directory(directory)["protocols"]["coco_caption"]["summary"]
    header, records = read_predictions(directory / PREDICTIONS)
    assert header["decoding"]["min_new_tokens"] == 8 and header["decoding"]["max_new_tokens"] == 60
    assert {record.prompt for record in records} == {
        "USER: <|image|>Provide a one-sentence caption for the provided image. ASSISTANT: "
    }
    assert len(records) == 10 and len(header["data"]) == 1
    answers = {record.id: record.answer for record in records}
    expected = caption_scores({record.id: record.gold for record in records}, answers, ("CIDEr", "BLEU_4", "ROUGE_L"))
    assert {measure: summary[measure] for measure in expected} == {
        measure: pytest.approx(score.corpus) for measure, score in expected.items()
    }
    found = compare(read_results([directory]))
    assert {entry.published for entry in found} == {published}
    assert [entry.ours for entry in found] == pytest.approx([100 * summary["CIDEr"]] * 2)


def test_a_caption_like_the_reference_scores_full_and_one_without_its_words_nothing(
    tmp_path: Path, write_json: Callable[..., Path], answered: Callable[..., Any]
) -> None:
    images = [
        karpathy_image(number, sentences=[{"raw": " ".join(words).capitalize() + " ."}])
        for number, words in enumerate(WORDS)
    ]
    write_json(tmp_path / "coco" / "dataset_coco.json", {"images": images})
    answers = [" ".join(words) for words in WORDS[:3]] + ["nothing of this"]
    records = answered("coco_caption", tmp_path, dict(zip("0123", answers, strict=True)))
    scores = task_named("coco_caption").score(records, "coco_caption")
    assert scores.scores == pytest.approx([10, 10, 10, 0])  # all n-grams agree, each in one image alone
    assert scores.summary["CIDEr"] == pytest.approx(7.5)
    assert scores.parsed[1] == "red cars stand near houses"


def test_meteor_is_computed_when_asked_for_and_says_what_it_lacks(
    coco: Path, predicted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = predicted("coco_caption", coco)
    assert list(score_directory(directory)["protocols"]) == ["coco_caption"]

    def meteor(references: list[list[str]], hypotheses: list[str]) -> tuple[float, list[float]]:
        return 0.25, [0.5] * len(hypotheses)

    monkeypatch.setattr("owl2.evaluation.metrics.captioning.meteor_scores", meteor)
    protocols = score_directory(directory, "with_meteor")["protocols"]
    assert protocols["with_meteor"]["summary"] == {**protocols["coco_caption"]["summary"], "METEOR": 0.25}

    def without_java(*_: object) -> None:
        raise RuntimeError("METEOR runs a Java program, and there is none")

    monkeypatch.setattr("owl2.evaluation.metrics.captioning.meteor_scores", without_java)
    with pytest.raises(ValueError, match="there is none. The protocol coco_caption does without METEOR"):
        score_directory(directory, "with_meteor")


def test_references_are_the_raw_captions_and_both_forms_are_the_same_images(
    coco: Path, write_json: Callable[..., Path]
) -> None:
    task = task_named("coco_caption")
    samples = task.load(coco, "karpathy-test", "one_sentence")
    assert samples[2].gold == ["two dogs chase yellow balls.", "Picture 2, seen from afar"]
    assert samples[2].images == (coco / "coco" / "val2014" / "COCO_val2014_000000000002.jpg",)
    contents = {
        "images": [{"id": number, "image": f"val2014/COCO_val2014_{number:012d}.jpg"} for number in range(10)],
        "annotations": [
            {"image_id": int(sample.id), "id": 0, "caption": text} for sample in samples for text in sample.gold
        ],
    }
    write_json(coco / "coco" / "coco_karpathy_test.json", contents)
    (coco / "coco" / "dataset_coco.json").unlink()
    assert task.load(coco, "karpathy-test", "one_sentence") == samples
    assert task.load(coco, "karpathy-test", "brief")[0].prompt == "Describe the image briefly."


def test_flickr_is_read_in_karpathys_form_too(tmp_path: Path, write_json: Callable[..., Path]) -> None:
    images = [karpathy_image(number, filename=f"{number}.jpg") for number in range(3)]
    write_json(tmp_path / "flickr30k" / "dataset_flickr30k.json", {"images": images})
    samples = task_named("flickr30k").load(tmp_path, "karpathy-test", "one_sentence")
    assert [sample.id for sample in samples] == ["1000", "1001", "1002"]
    assert samples[1].images == (tmp_path / "flickr30k" / "flickr30k-images" / "1.jpg",)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"split": "testing"}, "'split' is 'testing', not one of train, restval, val, test"),
        ({"sentences": []}, "has no caption"),
        ({"sentences": [{"tokens": ["a"]}]}, r"sentences\[0\]: has no 'raw'"),
        ({"cocoid": "2"}, "'cocoid' is '2', not an integer"),
        ({"cocoid": 3}, "image 3 is val2014/COCO_val2014_000000000002.jpg"),
        ({"filepath": "train2014"}, "image 2 is train2014/COCO_val2014_000000000002.jpg"),
    ],
)
def test_a_broken_image_is_named_by_file_and_record(
    changes: dict[str, Any], problem: str, tmp_path: Path, write_json: Callable[..., Path]
) -> None:
    images = [karpathy_image(1), karpathy_image(2, **changes)]
    write_json(tmp_path / "coco" / "dataset_coco.json", {"images": images})
    with pytest.raises(ValueError, match=rf"dataset_coco\.json, record 2.*{problem}"):
        task_named("coco_caption").load(tmp_path, "karpathy-test", "one_sentence")


@pytest.mark.parametrize(
    ("images", "annotated", "problem"),
    [
        ([1, 2], [1], r"images\[1\]: image 2 has no caption"),
        ([1, 1], [1], r"images\[1\]: image 1 .* occurs twice"),
        ([1], [1, 2], "1 images have captions but no record, such as 2"),
    ],
)
def test_images_and_captions_that_do_not_belong_together_are_refused(
    images: list[int], annotated: list[int], problem: str, tmp_path: Path, write_json: Callable[..., Path]
) -> None:
    contents = {
        "images": [{"id": number, "image": f"{number}.jpg"} for number in images],
        "annotations": [{"image_id": number, "id": number, "caption": "a dog"} for number in annotated],
    }
    write_json(tmp_path / "flickr30k" / "flickr30k_karpathy_test.json", contents)
    with pytest.raises(ValueError, match=rf"flickr30k_karpathy_test\.json.*{problem}"):
        task_named("flickr30k").load(tmp_path, "karpathy-test", "one_sentence")


def test_missing_files_and_images_stop_before_any_model_is_needed(coco: Path, tmp_path: Path) -> None:
    (coco / "coco" / "val2014" / "COCO_val2014_000000000004.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of 10 images or videos are missing, first .*000004\.jpg.*val2014 images"):
        plan_task(task_named("coco_caption"), Settings(coco, tmp_path / "out"), {})
    with pytest.raises(ValueError, match=r"Flickr30K needs .*dataset_flickr30k\.json, which was not found.*Karpathy"):
        plan_task(task_named("flickr30k"), Settings(coco, tmp_path / "out"), {})
