"""Every format of a source reaches the trainer, with the samples and shares that it should have."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from training.tiny_recipes import recipe_of

from owl2.data.pairs import index_shards
from owl2.processing import Owl2Processor
from owl2.training.data.stage_data import StageData, open_stage_data
from owl2.training.model.build import build_model


@pytest.fixture(scope="module")
def processor(data: Path) -> Owl2Processor:
    return build_model(recipe_of(data, "pretrain", data), [pair["caption"] for pair in pairs_of(data)])[1]


def opened(data: Path, stage: str, **sources: str) -> StageData:
    listed = ", ".join(f"{name}: {{{source}}}" for name, source in sources.items())
    file = data / f"{'-'.join(sources)}.yaml"
    file.write_text(f"base: {stage}.yaml\ndata:\n  sources: {{{listed}}}\n")
    recipe = recipe_of(data, file.stem, data / "run")
    return open_stage_data(recipe, recipe.data.sources, data / "run")


def pairs_of(data: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (data / "pairs.jsonl").read_text().splitlines()]


def write_shards(data: Path) -> None:
    (data / "shards").mkdir()
    with tarfile.open(data / "shards" / "00000.tar", "w") as tar:
        for number, pair in enumerate(pairs_of(data)):
            image = (data / pair["image"]).read_bytes()
            for suffix, contents in (("png", image), ("txt", pair["caption"].encode())):
                member = tarfile.TarInfo(f"{number:05d}.{suffix}")
                member.size = len(contents)
                tar.addfile(member, io.BytesIO(contents))
    list(index_shards(data / "shards"))


def write_coco(data: Path) -> None:
    pairs = pairs_of(data)
    images = [{"id": number, "file_name": pair["image"]} for number, pair in enumerate(pairs)]
    captions = [{"id": n, "image_id": n, "caption": pair["caption"]} for n, pair in enumerate(pairs)]
    (data / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))


def write_parquet(data: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    from pyarrow import Table

    table = Table.from_pylist([{"jpg": (data / p["image"]).read_bytes(), "text": p["caption"]} for p in pairs_of(data)])
    parquet.write_table(table, data / "pairs.parquet")


@pytest.mark.parametrize(
    ("write", "source"),
    [
        (lambda data: None, "format: jsonl, path: DIR/pairs.jsonl"),
        (write_shards, "format: webdataset, path: DIR/shards"),
        (write_coco, "format: coco_captions, path: DIR/captions.json, root: DIR"),
        (write_parquet, "format: parquet, path: DIR/pairs.parquet, image_field: jpg, caption_field: text"),
    ],
    ids=["jsonl", "webdataset", "coco", "parquet"],
)
def test_pairs_of_every_format_are_the_same_samples(
    data: Path, processor: Owl2Processor, write: Any, source: str
) -> None:
    write(data)
    samples = opened(data, "pretrain", mine=source.replace("DIR", str(data)))
    assert samples.describe() == [("mine", 40, 1.0)]
    assert set(samples.texts(40)) == {pair["caption"] for pair in pairs_of(data)}
    dataset = samples.dataset(processor)
    found = [dataset[draw].sample for draw in samples.take(40)]
    captions = {processor.tokenizer.decode(each["input_ids"][4:-1]) for each in found}
    assert captions == {pair["caption"] for pair in pairs_of(data)}
    assert all(each["pixel_values"].dtype == torch.uint8 and len(each["pixel_values"]) == 1 for each in found)


def test_weights_decide_how_often_a_source_is_drawn_from(data: Path) -> None:
    source = f"format: jsonl, path: {data / 'pairs.jsonl'}"
    samples = opened(data, "pretrain", often=f"{source}, weight: 3", seldom=f"{source}, weight: 1")
    assert [(name, share) for name, _, share in samples.describe()] == [("often", 0.75), ("seldom", 0.25)]
    drawn = Counter(draw.source for draw in samples.take(4000))
    assert drawn["often"] / 4000 == pytest.approx(0.75, abs=0.03)


def test_a_mixture_brings_its_sources_with_their_shares(data: Path, processor: Owl2Processor) -> None:
    (data / "mix.yaml").write_text(
        "cache: cache\nsources:\n"
        "  one: {format: records, file: records.jsonl, weight: 1}\n"
        "  two: {format: records, file: records.jsonl, weight: 3}\n"
    )
    records = f"format: records, path: {data / 'records.jsonl'}, weight: 4"
    samples = opened(data, "instruct", mix=f"format: mixture, path: {data / 'mix.yaml'}, weight: 4", mine=records)
    assert [(name, share) for name, _, share in samples.describe()] == [("one", 0.125), ("two", 0.375), ("mine", 0.5)]
    drawn = samples.take(16)
    assert Counter(draw.source for draw in drawn) == {"mine": 8, "two": 6, "one": 2}
    dataset = samples.dataset(processor)
    images = [len(dataset[draw].sample.get("pixel_values", ())) for draw in drawn]
    assert images == sorted(images, reverse=True)  # those with images first


def test_records_that_are_left_out_are_counted_and_shown(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    (data / "broken.jsonl").write_text((data / "records.jsonl").read_text() + '"text"\n')
    opened(data, "instruct", broken=f"format: records, path: {data / 'broken.jsonl'}")
    assert "broken: left out 1 records (malformed record: 1); first " in caplog.text


def test_a_file_of_which_too_much_is_broken_is_refused_unless_the_recipe_allows_it(data: Path) -> None:
    (data / "half.jsonl").write_text((data / "records.jsonl").read_text() + '"text"\n' * 100)
    source = f"format: records, path: {data / 'half.jsonl'}"
    with pytest.raises(ValueError, match="100 of .* records of the source 'half' are broken, more than 5.0%"):
        opened(data, "instruct", half=source)
    lenient = recipe_of(data, "half", data / "run", "data.bad_share=1.0")
    assert [name for name, _, _ in open_stage_data(lenient, lenient.data.sources, data / "run").describe()] == ["half"]


def test_a_name_that_comes_twice_is_refused(data: Path) -> None:
    (data / "mix.yaml").write_text("cache: cache\nsources:\n  mine: {format: records, file: records.jsonl}\n")
    with pytest.raises(ValueError, match="two sources of the name mine"):
        opened(
            data,
            "instruct",
            mix=f"format: mixture, path: {data / 'mix.yaml'}",
            mine=f"format: records, path: {data / 'records.jsonl'}",
        )


def test_images_and_text_are_those_of_inference(data: Path, processor: Owl2Processor) -> None:
    from owl2.data.decoding import normalize_pixels

    samples = opened(data, "instruct", mine=f"format: records, path: {data / 'records.jsonl'}")
    dataset = samples.dataset(processor)
    draw = samples.take(40)[0]
    records, number = samples.records.find(draw)  # type: ignore[attr-defined]
    conversation = records[number]
    wanted = processor.encode_conversation(conversation.messages, images=list(conversation.images))
    found = dataset[draw].sample
    assert all(found[name] == wanted[name] for name in ("input_ids", "labels", "mm_token_type_ids"))
    torch.testing.assert_close(normalize_pixels(found["pixel_values"]), wanted["pixel_values"], rtol=0, atol=1e-5)
