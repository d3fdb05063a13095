"""How long conversations are, counted."""

import json
import warnings
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pytest
from helpers import GOLDENS
from PIL import Image
from transformers import AutoTokenizer

from owl2.data.stats import gather_stats, summarize, together
from owl2.data.stats_plots import draw_stats
from owl2.processing import Owl2ImageProcessorPil, Owl2Processor

ROWS = 3  # of an image


@pytest.fixture(scope="module")
def processor() -> Owl2Processor:
    image_processor = Owl2ImageProcessorPil(size={"height": 28, "width": 28})
    return Owl2Processor(image_processor, AutoTokenizer.from_pretrained(GOLDENS / "tokenizer"), num_image_tokens=ROWS)


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


@pytest.fixture
def records(tmp_path: Path) -> Path:
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    lines: list[Any] = [
        {"messages": turns("what?", "a cat")},
        "text",
        {"messages": turns("<image><image>both?", "no", "why?", "so"), "images": ["a.png", "a.png"]},
        {"messages": turns("é", "ü" * 10)},
    ]
    path = tmp_path / "f.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_every_record_in_order_is_counted_once_and_the_others_are_named(records):
    (stats,) = gather_stats(records).values()
    assert {name: list(values) for name, values in stats.values.items()} == {
        "turns": [1, 2, 1],
        "images": [0, 2, 0],
        "videos": [0, 0, 0],
        "question characters": [5, 9, 1],
        "answer characters": [5, 4, 10],
    }
    assert stats.records == 3 and stats.rejected.records == 1
    assert stats.rejected.named[0].startswith(f"{records}, line 2: malformed record")


def test_tokens_are_those_of_training(records, processor):
    (stats,) = gather_stats(records, processor=processor).values()
    image = Image.new("RGB", (2, 2))
    parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "both?"}]
    spoken = [turns("what?", "a cat"), turns("", "no", "why?", "so"), turns("é", "ü" * 10)]
    spoken[1][0]["content"] = parts
    samples = [
        processor.encode_conversation(messages, images=[image] * 2 if index == 1 else None)
        for index, messages in enumerate(spoken)
    ]
    assert list(stats.values["tokens"]) == [len(sample["input_ids"]) for sample in samples]
    learnt = [sum(label != -100 for label in sample["labels"]) for sample in samples]
    assert list(stats.values["supervised tokens"]) == learnt


def test_summaries_are_what_statistics_says(tmp_path):
    lengths = list(range(1, 101)) + [1000]
    path = tmp_path / "f.jsonl"
    path.write_text("".join(json.dumps({"messages": turns("q", "a" * length)}) + "\n" for length in lengths))
    (stats,) = gather_stats(path).values()
    summaries = summarize(stats)
    assert set(summaries) == {"turns", "question characters", "answer characters"}  # no images anywhere
    found = summaries["answer characters"]
    assert (found.mean, found.median) == pytest.approx((mean(lengths), median(lengths)))
    assert (found.percentile_95, found.most, found.total) == (96, 1000, sum(lengths))


def test_a_mixture_is_counted_by_source_and_together(records, tmp_path):
    lines = [{"messages": turns("q", "a")}] * 30
    (tmp_path / "g.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = tmp_path / "r.yaml"
    texts = "{format: records, file: f.jsonl}", "{format: records, file: g.jsonl, size: 7}"
    recipe.write_text("cache: c\nsources: {{one: {}, other: {}}}".format(*texts))
    found = gather_stats(recipe)
    assert {name: stats.records for name, stats in found.items()} == {"one": 3, "other": 7}
    assert sorted(found["one"].values["turns"]) == [1, 1, 2] and found["one"].rejected.records == 1
    assert together(found).records == 10 and sum(together(found).values["turns"]) == 11


def test_a_root_belongs_to_a_file_of_records(tmp_path):
    with pytest.raises(ValueError, match="omit --root"):
        gather_stats(tmp_path / "r.yaml", root=tmp_path)


def test_a_file_without_a_record_in_order_is_an_error(tmp_path):
    (tmp_path / "f.jsonl").write_text("1\n2\n")
    with pytest.raises(ValueError, match="none of the 2 records of f.jsonl is valid; first .*line 1: malformed"):
        gather_stats(tmp_path / "f.jsonl")


def test_every_value_that_is_there_is_drawn(records, tmp_path, processor):
    pytest.importorskip("matplotlib")
    written = draw_stats(gather_stats(records, processor=processor), tmp_path / "plots" / "new")
    names = ["turns", "images", "question-characters", "answer-characters", "tokens", "supervised-tokens"]
    assert [path.name for path in written] == [f"{name}.png" for name in names]
    for path in written:
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 5


def test_sources_are_named_in_the_histograms_whatever_they_are_called(records, tmp_path):
    pytest.importorskip("matplotlib")
    (stats,) = gather_stats(records).values()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw_stats({r"$\frac{$": stats, "色": stats}, tmp_path)


def test_without_matplotlib_the_extra_is_named(records, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"owl2\[quickstart\]"):
        draw_stats(gather_stats(records), tmp_path)
