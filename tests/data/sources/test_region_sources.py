"""RefCOCO and Visual Genome: box to phrase and phrase to box."""

import logging
import pickle
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from owl2.data.sources import refcoco, visual_genome
from owl2.data.sources.regions import Region, box_text, normalized_box, region_conversation

Write = Callable[[str, Any], Path]
Spoken = Callable[[Any], list[tuple[str, str]]]
TO_PHRASE = "Please provide a short description for this region: "
TO_BOX = "Please provide the bounding box coordinate of the region this sentence describes: "


def described(turns: list[tuple[str, str]]) -> set[tuple[str, str]]:
    """(Box, phrase) of every exchange, whichever was asked for."""
    found = set()
    for (_, question), (_, answer) in zip(turns[::2], turns[1::2], strict=True):
        if question.startswith(TO_PHRASE):
            found.add((question.removeprefix(TO_PHRASE).removesuffix("."), answer))
        else:
            found.add((answer, question.removeprefix(TO_BOX)))
    return found


@pytest.mark.parametrize(
    ("pixels", "text"),
    [
        ((160, 48, 160, 432), "[0.25, 0.10, 0.50, 1.00]"),  # of 640 x 480
        ((0, 0, 640, 480), "[0.00, 0.00, 1.00, 1.00]"),
        ((-64, 240, 128, 480), "[0.00, 0.50, 0.10, 1.00]"),  # cut at the left and at the bottom
    ],
)
def test_a_box_is_left_top_right_bottom_over_width_and_height(pixels: tuple[int, ...], text: str) -> None:
    x, y, width, height = pixels
    box = normalized_box(x, y, width, height, 640, 480)
    assert box is not None and box_text(box) == text


@pytest.mark.parametrize("pixels", [(640, 0, 10, 10), (0, -10, 10, 10), (5, 5, 0, 10), (5, 5, 10, -3)])
def test_a_box_of_which_nothing_is_inside_the_image_is_none(pixels: tuple[int, ...]) -> None:
    x, y, width, height = pixels
    assert normalized_box(x, y, width, height, 640, 480) is None


def regions(number: int) -> list[Region]:
    return [Region((index / 100, 0.0, 1.0, 1.0), f"thing {index}") for index in range(number)]


def test_both_directions_occur_and_two_epochs_ask_each_region_in_both(spoken: Spoken) -> None:
    few = regions(10)
    turns = [spoken(region_conversation("n", "a.jpg", few, 0, epoch)) for epoch in (0, 1)]
    expected = {(f"[{index / 100:.2f}, 0.00, 1.00, 1.00]", f"thing {index}") for index in range(10)}
    assert described(turns[0]) == described(turns[1]) == expected
    questions = [{text for role, text in part if role == "user"} for part in turns]
    assert not questions[0] & questions[1] and len(questions[0] | questions[1]) == 20
    directions = Counter(
        question.startswith(TO_PHRASE)
        for number in range(100)
        for role, question in spoken(region_conversation(f"n{number}", "a.jpg", few, 0, 0))
        if role == "user"
    )
    assert 400 < directions[True] < 600


def test_epochs_go_through_the_regions_of_an_image_with_many(spoken: Spoken) -> None:
    many = regions(30)
    found = [described(spoken(region_conversation("n", "a.jpg", many, 0, epoch))) for epoch in range(3)]
    assert [len(part) for part in found] == [10, 10, 10] and len(set.union(*found)) == 30


def reference(number: int, annotation: int, phrases: list[str], image: int = 7, **changes: Any) -> dict[str, Any]:
    sentences = [{"sent": text, "raw": text, "sent_id": 0, "tokens": text.split()} for text in phrases]
    fields = {"ref_id": number, "ann_id": annotation, "image_id": image, "split": "train", "category_id": 1}
    return {**fields, "file_name": f"COCO_{image}_{annotation}.jpg", "sentences": sentences, **changes}


def instances(**changes: Any) -> dict[str, Any]:
    image = {"id": 7, "width": 200, "height": 100, "file_name": "COCO_train2014_000000000007.jpg"}
    boxes = {1: [20, 10, 100, 40], 2: [0, 0, 200, 100]}
    annotations = [{"id": id_, "image_id": 7, "bbox": box, "category_id": 1} for id_, box in boxes.items()]
    return {"images": [{**image, **changes}], "annotations": annotations, "categories": []}


REFERENCES = [
    reference(0, 1, ["left man", "man in red"]),
    reference(1, 2, ["all", "everything", "it"]),
    reference(2, 2, ["secret"], split="testA"),
]


def rounds(references: Path, file: Path, spoken: Spoken) -> list[set[tuple[str, str]]]:
    found = list(refcoco.conversations(references, file, "coco"))
    assert {record.images for record in found} == {("coco/train2014/COCO_train2014_000000000007.jpg",)}
    assert len({record.id for record in found}) == len(found)
    return [described(spoken(record)) for record in found]


EXPECTED = [
    {("[0.10, 0.10, 0.60, 0.50]", "left man"), ("[0.00, 0.00, 1.00, 1.00]", "all")},
    {("[0.10, 0.10, 0.60, 0.50]", "man in red"), ("[0.00, 0.00, 1.00, 1.00]", "everything")},
    {("[0.00, 0.00, 1.00, 1.00]", "it")},
]


def test_every_phrase_of_refcoco_is_asked_and_an_object_once_a_conversation(write: Write, spoken: Spoken) -> None:
    assert rounds(write("refs.json", REFERENCES), write("instances.json", instances()), spoken) == EXPECTED


def test_parquet_gives_what_json_gives(write: Write, tmp_path: Path, spoken: Spoken) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(REFERENCES), tmp_path / "refs.parquet")
    assert rounds(tmp_path / "refs.parquet", write("instances.json", instances()), spoken) == EXPECTED
    parquet.write_table(pyarrow.table({"ann_id": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"other\.parquet has no column \['image_id', 'split', 'sentences'\]"):
        list(refcoco.conversations(tmp_path / "other.parquet", write("instances.json", instances()), ""))


class Bomb:
    def __reduce__(self) -> Any:
        return (Path("exploded").touch, ())


def test_the_published_pickle_is_refused_unopened(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p is neither \.json nor \.parquet.*never opened"):
        list(refcoco.conversations(tmp_path / "refs(unc).p", write("instances.json", instances()), ""))
    assert not (tmp_path / "exploded").exists()


def test_the_conversion_in_the_documentation_makes_what_is_read_and_runs_no_code(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoken: Spoken
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "train" / "data-sources.md").read_text()
    (script,) = re.findall(r"```python\n(import json, pickle\n.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(REFERENCES, protocol=0))
    exec(script, {})
    assert rounds(tmp_path / "refs.json", write("instances.json", instances()), spoken) == EXPECTED
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(Bomb(), protocol=0))
    with pytest.raises(pickle.UnpicklingError):
        exec(script, {})
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("changes", "file", "problem"),
    [
        ({"ann_id": 99}, instances(), r"refs\.json, record 2: annotation 99 of image 7 is not in .*instances\.json"),
        ({"sentences": [{"sent": ""}]}, instances(), r"refs\.json, record 2, sentences\[0\]: 'sent' is empty"),
        ({}, instances(width=10), r"instances\.json, annotations, record 1: the box .* is outside"),
        ({}, instances(id=8), r"instances\.json, annotations, record 1: image 7 is not among"),
        ({}, instances(file_name="../../a.jpg"), r"instances\.json, images, record 1: the image"),
    ],
)
def test_broken_refcoco_records_are_named(write: Write, changes: dict[str, Any], file: Any, problem: str) -> None:
    references = write("refs.json", [reference(0, 1, ["a"]), reference(1, 2, ["b"], **changes)])
    with pytest.raises(ValueError, match=problem):
        list(refcoco.conversations(references, write("instances.json", file), "coco"))


def genome_image(number: int, folder: str = "VG_100K", **changes: Any) -> dict[str, Any]:
    url = f"https://cs.stanford.edu/people/rak248/{folder}/{number}.jpg"
    return {"image_id": number, "url": url, "width": 400, "height": 200, "coco_id": None, "flickr_id": None, **changes}


def genome_regions(number: int, *regions: tuple[int, int, int, int, str]) -> dict[str, Any]:
    return {
        "id": number,
        "regions": [
            {"region_id": index, "image_id": number, "x": x, "y": y, "width": width, "height": height, "phrase": phrase}
            for index, (x, y, width, height, phrase) in enumerate(regions)
        ],
    }


def test_visual_genome_reads_files_from_the_urls_and_boxes_from_the_sizes(write: Write, spoken: Spoken) -> None:
    files = (
        write("regions.json", [genome_regions(2, (100, 20, 100, 80, "a  red bus\n")), genome_regions(1)]),
        write("image_data.json", [genome_image(1), genome_image(2, "VG_100K_2")]),
    )
    (record,) = visual_genome.conversations(*files, "vg")
    assert record.images == ("vg/VG_100K_2/2.jpg",)
    assert described(spoken(record)) == {("[0.25, 0.10, 0.50, 0.50]", "a red bus")}


def test_regions_without_phrase_or_area_are_left_out_and_counted(
    write: Write, spoken: Spoken, caplog: pytest.LogCaptureFixture
) -> None:
    broken = [(0, 0, 10, 10, " "), (400, 0, 10, 10, "outside"), (5, 5, 0, 10, "flat"), (0, 0, 400, 200, "all")]
    files = (
        write("regions.json", [genome_regions(1, *broken)]),
        write("image_data.json", [genome_image(1)]),
    )
    with caplog.at_level(logging.WARNING):
        (record,) = visual_genome.conversations(*files, "vg")
    assert described(spoken(record)) == {("[0.00, 0.00, 1.00, 1.00]", "all")}
    assert "left out 3 regions: {'no phrase': 1, 'no area inside the image': 2}" in caplog.text


@pytest.mark.parametrize(
    ("row", "image", "problem"),
    [
        (genome_regions(3), genome_image(2), r"regions\.json, record 1: image 3 is not in .*image_data\.json"),
        (genome_regions(2), genome_image(2, width=0), r"image_data\.json, record 1: 'width' is 0"),
        (genome_regions(2), genome_image(2, ".."), r"image_data\.json, record 1: the image"),
        (
            {"id": 2, "regions": [{"x": "1"}]},
            genome_image(2),
            r"regions\.json, record 1, regions\[0\]: 'x' is '1', not a number",
        ),
    ],
)
def test_broken_visual_genome_records_are_named(write: Write, row: Any, image: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        list(visual_genome.conversations(write("regions.json", [row]), write("image_data.json", [image]), "vg"))
