"""What is wrong with the sources of a mixture: images of official sources, records of files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from owl2.data.mixture import MixtureRecipe
from owl2.data.mixture.check import SourceCheck

Write = Callable[[str, Any], Path]
MakeRecipe = Callable[..., MixtureRecipe]


@pytest.fixture
def pictures(tmp_path: Path, textcaps: dict[str, str]) -> Path:
    """The twelve images of `textcaps`: one missing, one empty, one a folder, one no image, one cut, one large."""
    folder = tmp_path / "train_images"
    folder.mkdir()
    for number in range(12):
        Image.linear_gradient("L").save(folder / f"i{number:02}.jpg")
    (folder / "i01.jpg").unlink()
    (folder / "i02.jpg").write_bytes(b"")
    (folder / "i03.jpg").unlink()
    (folder / "i03.jpg").mkdir()
    (folder / "i04.jpg").write_bytes(b"<html>404</html>")
    contents = (folder / "i05.jpg").read_bytes()
    (folder / "i05.jpg").write_bytes(contents[: len(contents) // 2])
    Image.new("L", (400, 300)).save(folder / "i06.jpg")
    return folder


def found(check: SourceCheck, num_workers: int = 1) -> list[tuple[str, str]]:
    """Place and kind of every problem."""
    return [(finding.where, str(finding.kind)) for part in check.parts(num_workers) for finding in part.findings]


def test_images_of_an_official_source_that_are_not_there_are_found_without_opening_any(
    recipe: MakeRecipe, textcaps: dict[str, str], pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("owl2.data.check.load_image", lambda source: pytest.fail("an image was opened"))
    check = SourceCheck(recipe({"textcaps": textcaps}), "textcaps")
    assert found(check) == [
        ("textcaps, record textcaps-i01", "missing file"),
        ("textcaps, record textcaps-i02", "unreadable file"),
        ("textcaps, record textcaps-i03", "unreadable file"),
    ]
    assert (check.summary.records, check.summary.faulty, check.is_faulty) == (12, 3, True)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_on_request_every_image_is_opened_on_as_many_processes_as_asked_for(
    recipe: MakeRecipe, textcaps: dict[str, str], pictures: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    monkeypatch.setattr("owl2.data.check.PART", 2)
    check = SourceCheck(recipe({"textcaps": textcaps}), "textcaps", open_media=True)
    assert found(check, num_workers)[3:] == [
        ("textcaps, record textcaps-i04", "unreadable file"),
        ("textcaps, record textcaps-i05", "unreadable file"),
        ("textcaps, record textcaps-i06", "oversized image"),
    ]
    kinds = {str(kind): count for kind, count in check.summary.kinds.items()}
    assert kinds == {"missing file": 1, "unreadable file": 4, "oversized image": 1}


def test_an_image_of_several_records_is_one_problem(recipe: MakeRecipe, write: Write, tmp_path: Path) -> None:
    row = {
        "split": "train",
        "image_id": 7,
        "question": "what?",
        "choices": ["a", "b", "c", "d"],
        "correct_choice_idx": 1,
    }
    write("aokvqa.json", [{**row, "question_id": name} for name in ("x", "y")])
    source = {"annotations": "aokvqa.json", "images": "."}
    check = SourceCheck(recipe({"a_okvqa": source}), "a_okvqa")
    ((where, kind),) = found(check)
    assert where.startswith("a_okvqa, record a_okvqa-x-") and kind == "missing file"
    assert (check.summary.records, check.summary.faulty) == (6, 6), "three orders of each of the two questions"


def test_a_file_of_records_is_checked_line_by_line(recipe: MakeRecipe, write: Write, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "<image>a"}, {"role": "assistant", "content": "b"}]
    (tmp_path / "bad.png").write_text("no image")
    lines = [{"messages": turns, "images": [name]} for name in ("none.png", "none.png", "bad.png")]
    file = write("mine.jsonl", ["text", *lines])
    made = recipe({"mine": {"format": "records", "file": "mine.jsonl"}})
    check = SourceCheck(made, "mine")
    listed = [(f"{file}:1", "malformed record"), (f"{file}:2", "missing file"), (f"{file}:3", "missing file")]
    assert found(check) == listed
    assert (check.summary.records, check.summary.rejected) == (4, 3)
    opened = SourceCheck(made, "mine", open_media=True)
    assert found(opened) == [*listed, (f"{file}:4", "unreadable file")]
    assert opened.summary.rejected == 3, "a damaged image is skipped when it is drawn"


def test_what_a_source_leaves_out_by_its_own_rule_is_named_and_no_problem(recipe: MakeRecipe, write: Write) -> None:
    def said(*speakers: str) -> list[dict[str, str]]:
        return [{"from": speaker, "value": "words"} for speaker in speakers]

    rows = [{"id": "a", "conversations": said("human", "gpt")}, {"id": "b", "conversations": said("gpt")}]
    rows.append({"id": "c", "conversations": said("human", "human", "gpt")})
    file = write("sharegpt.json", rows)
    made = recipe({"sharegpt": {"annotations": "sharegpt.json"}})
    for check in (SourceCheck(made, "sharegpt"), SourceCheck(made, "sharegpt")):  # read, and then from the cache
        assert found(check) == [] and not check.is_faulty and check.summary.records == 1
        assert check.rejected.kinds == {"no assistant turn": 1, "roles out of order": 1}
        assert [text.split(": ")[0] for text in check.rejected.named] == [f"{file}, record {n}" for n in (2, 3)]


def test_an_image_without_a_region_to_ask_about_is_named(recipe: MakeRecipe, write: Write) -> None:
    sizes = [
        {"image_id": number, "width": 10, "height": 10, "url": f"https://x/VG_100K/{number}.jpg"} for number in (1, 2)
    ]
    region = {"x": 1, "y": 1, "width": 5, "height": 5, "phrase": "a dog"}
    rows = [{"id": 1, "regions": [region]}, {"id": 2, "regions": [{**region, "phrase": " "}]}]
    file = write("regions.json", rows)
    write("sizes.json", sizes)
    source = {"regions": "regions.json", "image_data": "sizes.json", "images": "."}
    check = SourceCheck(recipe({"visual_genome": source}), "visual_genome")
    assert len(check) == 1 and check.rejected.records == 1
    assert check.rejected.named == [f"{file}, record 2: no usable region: image 2 has no region to ask about"]


@pytest.mark.parametrize("broken", ["none.jsonl", "orca.jsonl"])
def test_a_source_that_cannot_be_read_is_told_and_does_not_end_the_check(
    recipe: MakeRecipe, slim_orca: dict[str, str], tmp_path: Path, broken: str
) -> None:
    with (tmp_path / "orca.jsonl").open("a") as file:
        file.write("{}\n")
    check = SourceCheck(recipe({"slim_orca": {**slim_orca, "annotations": broken}}), "slim_orca")
    assert found(check) == [] and len(check) == 0 and check.is_faulty
    assert check.error is not None and broken in check.error
