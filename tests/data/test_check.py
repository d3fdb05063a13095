"""What is wrong with a file of records: every problem with its line, and a summary."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers import GOLDENS
from PIL import Image
from transformers import AutoTokenizer

from owl2.data.check import RecordCheck
from owl2.data.formats import RecordFile
from owl2.data.preview import preview
from owl2.processing import Owl2ImageProcessorPil, Owl2Processor

ROWS = 3  # of an image
SAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "instructions.jsonl"


@pytest.fixture(scope="module")
def processor() -> Owl2Processor:
    image_processor = Owl2ImageProcessorPil(size={"height": 28, "width": 28})
    return Owl2Processor(image_processor, AutoTokenizer.from_pretrained(GOLDENS / "tokenizer"), num_image_tokens=ROWS)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Image.linear_gradient("L").save(tmp_path / "a.png")
    contents = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(contents[: len(contents) // 2])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    Image.new("L", (400, 300)).save(tmp_path / "large.png")
    frames = [Image.new("L", (4, 4), 10 * shade) for shade in range(20)]
    frames[0].save(tmp_path / "v.gif", save_all=True, append_images=frames[1:])
    return tmp_path


def turns(*pairs: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in pairs]


def record(question: Any = "what?", answer: str = "a cat", **fields: Any) -> dict[str, Any]:
    return {"messages": turns(("user", question), ("assistant", answer)), **fields}


def checked(root: Path, lines: list[Any], **settings: Any) -> tuple[list[tuple[int, str]], RecordCheck]:
    """(line, kind) of every problem of a file of records, bytes or texts, one a line."""
    octets = [
        line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
        for line in lines
    ]
    (root / "f.jsonl").write_bytes(b"\n".join(octets))
    check = RecordCheck(RecordFile(root / "f.jsonl"), **settings)
    return [(int(finding.where.removeprefix(f"{root / 'f.jsonl'}:")), str(finding.kind)) for finding in check], check


@pytest.mark.parametrize(
    ("faulty", "kinds"),
    [
        (b'{"messages": "\xff"}', ["invalid UTF-8"]),
        (json.dumps(record("half \ud83d")), ["invalid UTF-8"]),
        ("{", ["invalid JSON"]),
        ("[" * 100_000, ["invalid JSON"]),
        ("1" * 5000, ["invalid JSON"]),
        (json.dumps(record())[:-1] + ', "messages": []}', ["invalid JSON"]),
        ("17", ["malformed record"]),
        ({"text": "a"}, ["malformed record"]),
        ({"messages": turns(("user", None))}, ["malformed record"]),
        ({"conversations": [{"from": "human"}, "gpt"]}, ["malformed record"] * 2),
        ({"messages": turns(("user", "a"), ("user", "b"), ("assistant", "c"))}, ["roles out of order"]),
        ({"messages": turns(("assistant", "a"), ("user", "b"))}, ["roles out of order"]),
        ({"messages": turns(("user", "a"), ("assistant", "b"), ("system", "c"))}, ["roles out of order"]),
        ({"messages": turns(("user", "a"), ("tool", "b"))}, ["roles out of order", "no assistant turn"]),
        ({"messages": turns(("user", "a"))}, ["no assistant turn"]),
        ({"messages": turns(("system", "a"))}, ["no assistant turn"]),
        (record("  "), ["empty turn"]),
        (record(answer="\n"), ["empty turn"]),
        (record(""), ["empty turn"]),
        (record("<image>what?"), ["placeholders and media disagree"]),
        (record("what?", images=["a.png"]), ["placeholders and media disagree"]),
        (record("<image><image>what?", images=["a.png"]), ["placeholders and media disagree"]),
        (record("<image>what?", videos=["v.gif"]), ["placeholders and media disagree"] * 2),
        (record([{"type": "image", "path": "a.png"}], images=["a.png"]), ["placeholders and media disagree"]),
        (record("<image>", images=["../a.png"]), ["path or address refused"]),
        (record("<image>", images=["http://x/a.png"]), ["path or address refused"]),
        (record("<image>", images=["none.png"]), ["missing file"]),
        (record("<image>", images=["empty.png"]), ["unreadable file"]),
        (record("<image><video>", " ", images=["none.png"], videos=["no"]), ["empty turn"] + ["missing file"] * 2),
    ],
)
def test_every_problem_is_found_in_its_line_and_the_check_goes_on(root, faulty, kinds):
    found, check = checked(root, [record(), "", faulty, record("<image>", images=["a.png"])])
    assert found == [(3, kind) for kind in kinds]
    assert (check.summary.records, check.summary.faulty) == (3, 1)
    assert check.summary.kinds == Counter(kinds)


@pytest.mark.parametrize(
    ("source", "kinds"),
    [("a.png", []), ("cut.png", ["unreadable file"]), ("text.png", ["unreadable file"])],
)
def test_images_are_read_whole_only_on_request(root, source, kinds):
    lines = [record("<image>", images=[source])]
    assert checked(root, lines)[0] == []
    assert [kind for _, kind in checked(root, lines, open_media=True)[0]] == kinds


@pytest.mark.parametrize("limit", [110_000, 50_000])
def test_an_oversized_image_is_told_from_a_damaged_one(root, monkeypatch, limit):
    """Pillow itself warns above its limit and refuses above twice that."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    lines = [record("<image>", images=["large.png"]), record("<image>", images=["a.png"])]
    expected = [(1, "oversized image")] + ([(2, "oversized image")] if limit < 256 * 256 else [])
    assert checked(root, lines, open_media=True)[0] == expected


def test_an_image_of_many_records_is_a_problem_of_each(root):
    lines = [record("<image>", images=["cut.png"])] * 3
    assert [line for line, _ in checked(root, lines, open_media=True)[0]] == [1, 2, 3]


def test_several_processes_find_what_one_does_in_its_order(root, monkeypatch):
    monkeypatch.setattr("owl2.data.check.PART", 4)
    lines = [record("<image>", images=["cut.png" if number % 3 else "a.png"]) for number in range(30)]
    found, check = checked(root, lines, open_media=True)
    summary = check.summary
    in_processes = [(finding.where, finding.kind) for part in check.parts(num_workers=2) for finding in part.findings]
    assert in_processes == [(f"{root / 'f.jsonl'}:{line}", kind) for line, kind in found]
    assert check.summary == summary and summary.records == 30 and summary.faulty == 20


def test_a_damaged_video_is_found_when_it_is_opened(root):
    (root / "bad.gif").write_bytes(b"GIF89a and no more")
    lines = [record("<video>", videos=[name]) for name in ("v.gif", "bad.gif")]
    assert checked(root, lines)[0] == []
    assert checked(root, lines, open_media=True)[0] == [(2, "unreadable file")]


def test_web_addresses_that_are_allowed_are_counted_as_not_opened(root):
    (root / "f.jsonl").write_text(json.dumps(record("<image>", images=["http://x/a.png"])))
    check = RecordCheck(RecordFile(root / "f.jsonl", allow_urls=True), open_media=True)
    assert list(check) == [] and check.summary.unopened == 1


def test_over_long_means_longer_than_what_is_trained_on(root, processor):
    given = record("<image>what is this?", images=["a.png"])
    messages = turns(("user", "<|image|>what is this?"), ("assistant", "a cat"))
    length = len(processor.encode_conversation(messages, images=[root / "a.png"])["input_ids"])
    assert checked(root, [given], processor=processor, max_length=length)[0] == []
    found, check = checked(root, [record("a"), given], processor=processor, max_length=length - 1)
    assert found == [(2, "over-long")]
    assert [finding.text for finding in check] == [f"{length} tokens, over {length - 1}"]


def test_a_video_is_as_long_as_its_most_frames(root, processor):
    given = record("<video>what?", videos=["v.gif"])
    messages = turns(("user", "<|video|>what?"), ("assistant", "a cat"))
    length = len(processor.encode_conversation(messages, videos=[str(root / "v.gif")])["input_ids"])
    assert length > processor.num_frames * ROWS
    assert checked(root, [given], processor=processor, max_length=length)[0] == []
    assert checked(root, [given], processor=processor, max_length=length - 1)[0] == [(1, "over-long")]


def test_the_published_template_takes_every_record_that_is_in_order(processor):
    assert list(RecordCheck(RecordFile(SAMPLES), open_media=True, processor=processor)) == []


def test_a_length_needs_a_model_to_count_with():
    with pytest.raises(ValueError, match="max_length=5"):
        RecordCheck(RecordFile(SAMPLES), max_length=5)


class TestPreview:
    def test_the_supervised_runs_are_the_answers_with_their_ends(self, processor):
        for conversation in RecordFile(SAMPLES):
            answers = [
                "".join(part["text"] for part in message["content"])
                for message in conversation.messages
                if message["role"] == "assistant"
            ]
            runs = [run.text for run in preview(conversation, processor).runs if run.is_supervised]
            assert [run.strip() for run in runs] == [f"{answer}</s>" for answer in answers]

    def test_all_tokens_are_in_runs_that_count_as_the_training_sample_does(self, processor):
        for conversation in RecordFile(SAMPLES):
            sample = processor.encode_conversation(conversation.messages, images=list(conversation.images) or None)
            runs = preview(conversation, processor).runs
            assert sum(run.tokens for run in runs) == len(sample["input_ids"])
            learnt = sum(label != -100 for label in sample["labels"])
            assert sum(run.tokens for run in runs if run.is_supervised) == learnt
            visual = sum(modality != 0 for modality in sample["mm_token_type_ids"])
            assert sum(run.tokens for run in runs if run.is_visual) == visual

    def test_images_and_videos_are_named_in_their_order_with_their_sizes(self, root, processor):
        given = record("<image>and<video>and<image>", images=["large.png", "a.png"], videos=["v.gif"])
        (root / "f.jsonl").write_text(json.dumps(given))
        assert preview(RecordFile(root / "f.jsonl")[0], processor).media == [
            f"image 1: 400 x 300 pixels, {root / 'large.png'}",
            f"video 1: {processor.num_frames} frames of 4 x 4 pixels, {root / 'v.gif'}",
            f"image 2: 256 x 256 pixels, {root / 'a.png'}",
        ]
