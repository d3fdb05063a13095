"""The English texts of the quickstart, written for it: passages, instructions, and facts to ask about."""

import json
from importlib.resources import files
from typing import NamedTuple


class Fact(NamedTuple):
    question: str
    answers: list[str]
    statement: str


def passages(split: str) -> list[str]:
    """Plain English paragraphs of the `train` or the `heldout` split."""
    return [record["text"] for record in _read("passages.jsonl") if record["split"] == split]


def instructions() -> list[tuple[str, str]]:
    """Text-only instructions: questions and answers. None of them answers one of the facts."""
    return [(record["question"], record["answer"]) for record in _read("instructions.jsonl")]


def facts() -> list[Fact]:
    """Questions with one-word answers, by which language is measured."""
    return [Fact(record["question"], record["answers"], record["statement"]) for record in _read("facts.jsonl")]


def _read(name: str) -> list[dict]:
    text = (files("owl2.quickstart") / "text" / name).read_text()
    return [json.loads(line) for line in text.splitlines()]
