"""COCO and TextCaps: one random caption an image, another each epoch."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from owl2.data.sources import coco_captions, textcaps

PROMPT = "Provide a one-sentence caption for the provided image."
Write = Callable[[str, Any], Path]
Spoken = Callable[[Any], list[tuple[str, str]]]


def karpathy_image(number: int, captions: list[str], split: str = "train", **changes: Any) -> dict[str, Any]:
    sentences = [{"raw": caption, "tokens": caption.lower().split(), "imgid": number} for caption in captions]
    name = f"COCO_train2014_{number:012d}.jpg"
    image = {"filepath": "train2014", "filename": name, "imgid": 0, "cocoid": number, "split": split}
    return {**image, "sentences": sentences, **changes}


def karpathy(*images: dict[str, Any]) -> dict[str, Any]:
    return {"images": list(images), "dataset": "coco"}


def textcaps_file(*captions: tuple[str, str]) -> dict[str, Any]:
    rows = [{"image_id": image, "caption_str": text, "image_path": f"train/{image}.jpg"} for image, text in captions]
    return {"dataset_type": "train", "dataset_name": "textcaps", "dataset_version": "0.1", "data": rows}


def test_a_coco_record_has_the_image_the_published_prompt_and_one_of_its_captions(write: Write, spoken: Spoken) -> None:
    file = write("dataset_coco.json", karpathy(karpathy_image(57870, ["A  restaurant\nhas tables. "])))
    (record,) = coco_captions.conversations(file, "coco")
    assert record.images == ("coco/train2014/COCO_train2014_000000057870.jpg",)
    assert spoken(record) == [("user", PROMPT), ("assistant", "A restaurant has tables.")]


def test_only_the_train_split_of_coco_is_read(write: Write) -> None:
    splits = ["train", "restval", "val", "test", "train"]
    images = [karpathy_image(number, ["a"], split) for number, split in enumerate(splits)]
    found = coco_captions.conversations(write("dataset_coco.json", karpathy(*images)), "coco")
    assert [record.id for record in found] == ["coco-0", "coco-4"]


def test_as_many_epochs_as_an_image_has_captions_give_each_once(write: Write, spoken: Spoken) -> None:
    captions = ["one", "two", "three", "four", "five"]
    file = write("dataset_coco.json", karpathy(karpathy_image(1, captions)))
    given = [spoken(next(coco_captions.conversations(file, "", seed=3, epoch=epoch)))[1][1] for epoch in range(10)]
    assert sorted(given[:5]) == sorted(captions) and given[5:] == given[:5]


def test_the_caption_is_random_over_images_and_seeds_but_the_same_for_a_seed(write: Write, spoken: Spoken) -> None:
    images = [karpathy_image(number, ["a", "b", "c", "d", "e"]) for number in range(500)]
    file = write("dataset_coco.json", karpathy(*images))
    first, again, other = (
        [spoken(record)[1][1] for record in coco_captions.conversations(file, "", seed=seed)] for seed in (0, 0, 1)
    )
    assert first == again != other
    assert all(60 < number < 140 for number in Counter(first).values())  # 100 each; 140 is 4.5 deviations away


def test_captions_of_one_textcaps_image_become_one_record(write: Write, spoken: Spoken) -> None:
    captions = [("0054c91397f2fe05", "A sign."), ("00afad", "A bottle."), ("0054c91397f2fe05", "A red stop sign.")]
    file = write("TextCaps_0.1_train.json", textcaps_file(*captions))
    epochs = [list(textcaps.conversations(file, "textvqa", epoch=epoch)) for epoch in (0, 1)]
    assert [record.images for record in epochs[0]] == [
        ("textvqa/train_images/0054c91397f2fe05.jpg",),
        ("textvqa/train_images/00afad.jpg",),
    ]
    assert {spoken(records[0])[1][1] for records in epochs} == {"A sign.", "A red stop sign."}
    assert [spoken(records[1]) for records in epochs] == [[("user", PROMPT), ("assistant", "A bottle.")]] * 2


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"filename": "../../../etc/passwd"}, "not a file under the image root"),
        ({"sentences": []}, "has no caption"),
        ({"sentences": [{"raw": " "}]}, "'raw' is empty"),
        ({"cocoid": "1"}, "'cocoid' is '1', not an integer"),
    ],
)
def test_a_broken_coco_record_is_named(write: Write, changes: dict[str, Any], problem: str) -> None:
    file = write("dataset_coco.json", karpathy(karpathy_image(1, ["a"]), karpathy_image(2, ["b"], **changes)))
    with pytest.raises(ValueError, match=rf"dataset_coco\.json, record 2[,:].*{problem}"):
        list(coco_captions.conversations(file, "coco"))


def test_a_textcaps_image_outside_the_root_is_named(write: Write) -> None:
    file = write("TextCaps_0.1_train.json", textcaps_file(("a", "x"), ("../../secret", "y")))
    with pytest.raises(ValueError, match=r"TextCaps_0\.1_train\.json, record 2: the image"):
        list(textcaps.conversations(file, "textvqa"))
