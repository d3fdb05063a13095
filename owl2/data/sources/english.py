"""English texts written for this project, for small models: passages, instructions, and facts to ask about."""

import json
from importlib.resources import files
from typing import Literal, NamedTuple

from owl2.data.records import Conversation, plain_text, turns

Kind = Literal["passages", "instructions", "facts"]


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


def records(kinds: tuple[Kind, ...]) -> list[Conversation]:
    """Records to learn from: training passages as they are, instructions as questions, each fact as both."""
    exchanges, plain = [], []
    if "instructions" in kinds:
        exchanges += instructions()
    if "facts" in kinds:
        exchanges += [(fact.question, fact.statement) for fact in facts()]
        plain += [fact.statement for fact in facts()]
    if "passages" in kinds:
        plain += passages("train")
    asked = [Conversation(f"question-{number}", turns([each])) for number, each in enumerate(exchanges)]
    return [*asked, *(plain_text(f"text-{number}", text) for number, text in enumerate(plain))]


def _read(name: str) -> list[dict]:
    text = (files("owl2.data.sources") / "english_texts" / name).read_text()
    return [json.loads(line) for line in text.splitlines()]
