"""The paper's mixture from its shipped recipe: a file or two of each of the twelve sources in its official format."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from owl2.data.mixture import Mixture, load_mixture_recipe
from owl2.data.mixture.report import examples, missing_sources, yields
from owl2.data.sources.mixture_sizes import TABLE_8

RECIPE = Path(__file__).parents[3] / "owl2" / "recipes" / "mixtures" / "table8.yaml"

IMAGES = range(1, 5)


def answers(text: str) -> list[dict[str, str]]:
    return [{"answer": text, "answer_confidence": "yes"}]


def vqa(prefix: str) -> dict[str, Any]:
    questions = [{"question_id": 10 * i + q, "image_id": i, "question": f"q{q}?"} for i in IMAGES for q in range(3)]
    annotations = [
        {**{key: row[key] for key in ("question_id", "image_id")}, "answers": answers("a")} for row in questions
    ]
    return {
        f"{prefix}OpenEnded_mscoco_train2014_questions.json": {"data_subtype": "train2014", "questions": questions},
        f"{prefix}mscoco_train2014_annotations.json": {"annotations": annotations},
    }


def speech(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[turn % 2], "value": text} for turn, text in enumerate(texts)]


def sized(**names: Any) -> list[dict[str, Any]]:
    return [{key: value(i) for key, value in names.items()} | {"width": 100, "height": 50} for i in IMAGES]


FILES: dict[str, Any] = {
    "sharegpt/ShareGPT_V3_unfiltered_cleaned_split.json": [
        {"id": f"s{i}", "conversations": speech("hello", "how do you do?")} for i in IMAGES
    ],
    "slim_orca/oo-labeled_correct.gpt4.sharegpt.jsonl": {"conversations": speech("why?", "because")},
    "llava/llava_instruct_150k.json": [
        {"id": str(i), "image": f"{i}.jpg", "conversations": speech("<image>\nwhat?", "that")} for i in IMAGES
    ],
    "coco/dataset_coco.json": {
        "images": [
            {
                "filepath": "train2014",
                "filename": f"{i}.jpg",
                "split": "train",
                "cocoid": i,
                "sentences": [{"raw": "c"}],
            }
            for i in IMAGES
        ]
    },
    "textcaps/TextCaps_0.1_train.json": {"data": [{"image_id": str(i), "caption_str": "sign"} for i in IMAGES]},
    **{f"vqav2/{name}": value for name, value in vqa("v2_").items()},
    **{f"okvqa/{name}": value for name, value in vqa("").items()},
    "gqa/train_balanced_questions.json": {
        str(i): {"imageId": str(i), "question": "q?", "answer": "a", "isBalanced": True} for i in IMAGES
    },
    "ocr_vqa/dataset.json": {
        f"b{i}": {"imageURL": "http://x/y.jpg", "questions": ["q?"], "answers": ["a"], "split": 1} for i in IMAGES
    },
    "a_okvqa/aokvqa_v1p0_train.json": [
        {
            "split": "train",
            "image_id": i,
            "question_id": f"k{i}",
            "question": "q?",
            "choices": ["a", "b", "c", "d"],
            "correct_choice_idx": 1,
        }
        for i in IMAGES
    ],
    "refcoco/refs.json": [
        {"ref_id": i, "ann_id": i, "image_id": i, "split": "train", "sentences": [{"sent": "left cat"}]} for i in IMAGES
    ],
    "refcoco/instances.json": {
        "images": sized(id=lambda i: i, file_name=lambda i: f"{i}.jpg"),
        "annotations": [{"id": i, "image_id": i, "bbox": [0, 0, 10, 10]} for i in IMAGES],
    },
    "visual_genome/region_descriptions.json": [
        {"id": i, "regions": [{"x": 0, "y": 0, "width": 9, "height": 9, "phrase": "a dog"}]} for i in IMAGES
    ],
    "visual_genome/image_data.json": sized(image_id=lambda i: i, url=lambda i: f"https://x/VG_100K/{i}.jpg"),
}


@pytest.fixture
def mixture(tmp_path: Path) -> Mixture:
    for name, value in FILES.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    for folder in ("gqa/images", "ocr_vqa/images"):
        (tmp_path / "data" / folder).mkdir()
    copy = shutil.copy(RECIPE, tmp_path)
    return Mixture(load_mixture_recipe(copy))


def test_all_twelve_sources_are_read_and_stand_beside_their_sizes(mixture) -> None:
    rows = yields(mixture)
    assert [(row.source, row.table_8) for row in rows[:-1]] == [(row.source, row.size) for row in TABLE_8]
    assert {row.source: row.found for row in rows} == {
        **{row.source: 4 for row in TABLE_8},
        "slim_orca": 1,
        "a_okvqa": 12,
        "total": 53,
    }
    assert rows[-1].table_8 == 1_230_000 and missing_sources(mixture) == []


def test_every_source_is_drawn_with_its_images(mixture) -> None:
    ids = set()
    for source in mixture.sources:
        records = mixture.records(source.name)
        for number in mixture.order(source.name).records():
            ids.add(records[number].id)
            assert bool(records[number].images) == (source.name not in ("sharegpt", "slim_orca"))
            assert len(records[number].images) == records.size(number).images
        assert list(examples(mixture, source.name, 1))
    assert len(ids) == 53


def test_the_epochs_differ_where_the_paper_draws_anew(mixture) -> None:
    epochs = [mixture.records("a_okvqa", epoch) for epoch in range(6)]
    conversations = [records[number] for records in epochs for number in range(len(records))]
    choices = [each.messages[0]["content"][1]["text"] for each in conversations if each.id.startswith("a_okvqa-k1-")]
    assert len(choices) == 18 and len(set(choices)) > 6  # three orders of the options an epoch
