"""Records of instructions: `owl2 data check` goes through any file and reports, or refuses it by name."""

import json
from pathlib import Path
from typing import Any

from fuzz.conftest import Fuzz
from fuzz.inputs import changed_json
from helpers import GOLDENS
from transformers import AutoTokenizer

from owl2.data.check import RecordCheck
from owl2.data.formats import RecordFile
from owl2.data.mixture import load_mixture_recipe
from owl2.processing import Owl2ImageProcessorPil, Owl2Processor

RECORDS: list[Any] = [
    {
        "id": "1",
        "image": "a.png",
        "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}],
    },
    {
        "messages": [
            {"role": "system", "content": "Short."},
            {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": "A cat.", "weight": 1},
            {"role": "user", "content": [{"type": "video", "video": "v.gif"}, {"type": "text", "text": "And?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]},
        ],
    },
    {
        "images": ["a.png", "a.png"],
        "messages": [{"role": "user", "content": "<image><image>?"}, {"role": "assistant", "content": "No."}],
    },
    {"video": "v.gif", "conversations": [{"from": "human", "value": "<video>?"}, {"from": "gpt", "value": "Yes."}]},
]


def checked(file: Path, contents: bytes, processor: Owl2Processor) -> None:
    file.write_bytes(contents)
    records = RecordFile(file)
    check = RecordCheck(records, open_media=True, processor=processor)
    for finding in check:
        assert file.name in finding.where and finding.text
    assert check.summary.records == len(records)


def test_a_file_of_records(fuzz: Fuzz, inside: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(GOLDENS / "tokenizer")
    processor = Owl2Processor(Owl2ImageProcessorPil(size={"height": 16, "width": 16}), tokenizer, num_image_tokens=4)
    strategy = changed_json(RECORDS, lines=True) | changed_json(RECORDS)
    fuzz(strategy, lambda contents: checked(inside / "r.jsonl", contents, processor), 120, "r.jsonl")


def test_a_mixture(fuzz: Fuzz, inside: Path) -> None:
    mixture = {
        "seed": 1,
        "cache": "cache",
        "sources": {
            "one": {"format": "records", "file": "r.jsonl", "images": ".", "weight": 1.5},
            "two": {"format": "sharegpt", "file": "s.json", "size": 100},
        },
    }
    file = inside / "m.yaml"

    def check(contents: bytes) -> None:
        file.write_bytes(contents)
        load_mixture_recipe(file)

    fuzz(changed_json(mixture), check, 60, "m.yaml")  # JSON is YAML


def test_records_as_they_are_have_no_problem(inside: Path) -> None:
    (inside / "r.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    assert list(RecordCheck(RecordFile(inside / "r.jsonl"), open_media=True)) == []
