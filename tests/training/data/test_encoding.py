"""What a run learns of each sample, and that it says so."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from training.tiny_recipes import recipe_of, run_recipe, write_data, write_recipes

from owl2.data.records import Conversation
from owl2.data.skipped import Fault, InvalidSample
from owl2.modeling.owl2 import IGNORE_INDEX
from owl2.processing import Owl2Processor
from owl2.training.data.encoding import encode_caption, encode_conversation
from owl2.training.data.loader import supervised_turns
from owl2.training.model.build import build_model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data")
    write_data(directory, 8)
    write_recipes(directory)
    return directory


@pytest.fixture(scope="module")
def processor(data: Path) -> Owl2Processor:
    return build_model(recipe_of(data, "pretrain", data / "out"), ["a cat and a dog"])[1]


def talk(*answers: str, **of_first: Any) -> Conversation:
    messages: list[dict[str, Any]] = []
    for index, answer in enumerate(answers):
        messages.append({"role": "user", "content": [{"type": "text", "text": "what?"}]})
        said = {} if index else of_first
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}], **said})
    return Conversation("x", messages)


def learnt(processor: Owl2Processor, sample: dict[str, Any]) -> str:
    return processor.tokenizer.decode([label for label in sample["labels"] if label != IGNORE_INDEX])


def test_with_last_answer_only_the_last_that_is_to_be_learnt_is(data: Path, processor: Owl2Processor) -> None:
    settings = recipe_of(data, "instruct", data / "out", "data.last_answer_only=true").data
    plain = recipe_of(data, "instruct", data / "out").data
    end = processor.tokenizer.eos_token
    conversation = talk("one", "two", "three")
    sample = encode_conversation(processor, conversation, settings)
    assert learnt(processor, sample).strip() == f"three{end}"
    assert sample["input_ids"] == encode_conversation(processor, conversation, plain)["input_ids"]
    conversation.messages[-1]["weight"] = 0
    assert learnt(processor, encode_conversation(processor, conversation, settings)).strip() == f"two{end}"


def test_a_sample_with_a_control_token_is_refused_or_learnt_as_text(data: Path, processor: Owl2Processor) -> None:
    refuse = recipe_of(data, "instruct", data / "out").data
    as_text = recipe_of(data, "instruct", data / "out", "data.control_tokens=text").data
    token, end = processor.tokenizer.eos_token, processor.tokenizer.eos_token_id
    for encode in (
        lambda settings: encode_conversation(processor, talk(f"a {token} b"), settings),
        lambda settings: encode_caption(processor, settings, f"a {token} b"),
    ):
        with pytest.raises(InvalidSample, match=r"control token.*data\.control_tokens=text") as refused:
            encode(refuse)
        assert refused.value.fault == Fault.CONTROL_TOKEN
        sample = encode(as_text)
        assert [label for label in sample["labels"] if label == end] == [end]
        assert token in learnt(processor, sample)[: -len(token)]


def test_turns_are_counted_by_their_stretches_of_labels() -> None:
    no = IGNORE_INDEX
    assert [supervised_turns(row) for row in ([], [no], [1], [1, 2, no, 3], [no, 1, no, no, 2, 2])] == [0, 0, 1, 2, 2]


def test_a_run_ends_with_what_it_learnt_beside_what_its_sources_hold(data: Path, tmp_path: Path) -> None:
    records = [json.loads(line) for line in (data / "records.jsonl").read_text().splitlines()]
    answers = sum(turn["from"] == "gpt" for record in records for turn in record["conversations"])
    pictures = sum("image" in record for record in records)
    size = f"batch.global_batch_size={len(records)}"
    _, printed = run_recipe(data, "instruct", tmp_path / "run", size, "schedule.steps=2")
    assert f"records holds {pictures} pictures, 0 videos, {answers} turns" in printed
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    supervised = sum(line["supervised_tokens"] for line in lines)
    assert f"learnt from {2 * pictures} pictures, {2 * answers} turns, {supervised} supervised tokens" in printed


def test_a_run_does_not_start_when_all_its_pictures_are_left_out(data: Path, tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A cat."}]
    records = [{"conversations": turns}, {"conversations": turns, "image_file": "a.png"}]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="no valid record of the source 'records' has an image"):
        run_recipe(data, "instruct", tmp_path / "run", f"data.sources.records.path={tmp_path / 'r.jsonl'}")
    assert not (tmp_path / "run" / "model").exists()
