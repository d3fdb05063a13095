"""Packing: whole samples, once each, in rows that are nearly full, and each as if it were alone."""

import itertools
import json
import random
from typing import Any

import pytest
import torch
from helpers import GOLDENS, IMAGE, sample, tiny_model
from PIL import Image
from transformers import AutoTokenizer

from owl2.data.packing import BestFitPacker, pack_encoded, pad_packed, rows_of
from owl2.processing import Owl2ImageProcessor, Owl2Processor


def uniform(generator: random.Random) -> int:
    return generator.randint(1, 2048)


def caption(generator: random.Random) -> int:
    """Rows of an image (65) and a web caption of 3 to 48 tokens."""
    return 65 + max(3, min(48, round(generator.lognormvariate(2.7, 0.45))))


def instruction(generator: random.Random) -> int:
    """Short answers about images, descriptions and dialogues about images, and dialogues of text alone."""
    kind = generator.random()
    if kind < 0.35:
        return 65 + generator.randint(20, 120)
    if kind < 0.8:
        return min(2048, 65 + round(generator.lognormvariate(5.8, 0.6)))
    return min(2048, 10 + round(generator.lognormvariate(6.4, 0.9)))


MIXTURES = {"uniform": uniform, "captions": caption, "instructions": instruction}


def lengths_of(mixture: str, count: int, seed: int = 0) -> list[int]:
    generator = random.Random(seed)
    return [MIXTURES[mixture](generator) for _ in range(count)]


def plain_best_fit(lengths: list[int], row_length: int, buffer_size: int) -> list[list[int]]:
    """The rule, word for word, by trying every choice: refill, take the oldest, then the others that leave the smallest
    gap with the fewest of the shortest, of the next longer ones, and so on, of equal ones the oldest."""
    stream, buffer, rows = list(range(len(lengths))), [], []
    while stream or buffer:
        while stream and len(buffer) < buffer_size:
            buffer.append(stream.pop(0))
        first, *others = buffer
        choices = [each for count in range(len(others) + 1) for each in itertools.combinations(others, count)]
        gap = row_length - lengths[first]

        def worth(choice: tuple[int, ...], gap: int = gap) -> tuple[Any, ...]:
            total, own = sum(lengths[number] for number in choice), [lengths[number] for number in choice]
            return (total > gap, gap - total, [own.count(length) for length in range(row_length + 1)], choice)

        row = [first, *min(choices, key=worth)]
        rows.append(row)
        buffer = [number for number in buffer if number not in row]
    return rows


@pytest.mark.parametrize("buffer_size", [1, 7, 1024])
@pytest.mark.parametrize("mixture", MIXTURES)
def test_every_sample_is_in_one_row_and_no_row_is_over_its_length(mixture: str, buffer_size: int) -> None:
    lengths = lengths_of(mixture, 3000)
    packer = BestFitPacker(2048, buffer_size)
    rows = list(packer.pack(enumerate(lengths)))
    assert sorted(itertools.chain(*rows)) == list(range(3000))
    used = [sum(lengths[number] for number in row) for row in rows]
    assert max(used) <= 2048
    assert packer.efficiency == sum(used) / (2048 * len(rows))


@pytest.mark.parametrize("mixture", ["captions", "instructions"])
def test_rows_of_realistic_mixtures_are_99_percent_full(mixture: str) -> None:
    packer = BestFitPacker(2048)
    assert packer.efficiency == 1
    for _ in packer.pack(enumerate(lengths_of(mixture, 8000))):
        pass
    assert packer.taken == 8000 and packer.efficiency >= 0.99


@pytest.mark.parametrize("seed", range(20))
def test_rows_are_those_of_the_rule_in_words(seed: int) -> None:
    generator = random.Random(seed)
    row_length, buffer_size = generator.randint(5, 60), generator.choice([1, 2, 5, 9])
    lengths = [generator.randint(1, generator.randint(1, row_length)) for _ in range(60)]
    rows = [[row[0], *sorted(row[1:])] for row in BestFitPacker(row_length, buffer_size).pack(enumerate(lengths))]
    assert rows == plain_best_fit(lengths, row_length, buffer_size)


def test_a_case_by_hand() -> None:
    lengths = [4, 7, 6, 2, 3, 6]
    # 4 leaves 6, which the third fills; the last comes into the buffer. 7 leaves 3, 2 leaves 8: the last fits best.
    assert list(BestFitPacker(10, 5).pack(enumerate(lengths))) == [[0, 2], [1, 4], [3, 5]]
    # 2 leaves 8: 5 and 3 fill it, though 6 is longer than either.
    assert list(BestFitPacker(10, 9).pack(enumerate([2, 6, 5, 3]))) == [[0, 2, 3], [1]]


def fewest_rows(lengths: list[int], row_length: int) -> int:
    return -(-sum(lengths) // row_length)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mixture", ["captions", "instructions"])
def test_a_list_is_packed_in_as_few_rows_as_its_tokens_need_and_the_last_batch_evenly(mixture: str, seed: int) -> None:
    lengths = [length for length in lengths_of(mixture, 200, seed) if length < 1000]
    for micro_batch_size in (1, 4, 100):
        rows = rows_of(lengths, 2048, micro_batch_size)
        assert sorted(itertools.chain(*rows)) == list(range(len(lengths)))
        assert len(rows) == fewest_rows(lengths, 2048)
        sums = [sum(lengths[number] for number in row) for row in rows]
        assert max(sums) <= 2048 and sums == sorted(sums, reverse=True)
        last = sums[(len(sums) - 1) // micro_batch_size * micro_batch_size :]
        assert sum(last) / (len(last) * last[0]) > 0.95
    assert rows_of([], 10, 4) == []


def test_a_sample_that_fills_a_row_leaves_the_others_their_row() -> None:
    assert rows_of([4, 10, 3, 3], 10, micro_batch_size=2) == [[1], [0, 2, 3]]
    assert rows_of([5, 4, 6, 3], 10, micro_batch_size=2) == [[2, 3], [0, 1]]


def test_an_endless_stream_is_packed_and_no_sample_waits_for_more_rows_than_the_buffer_holds() -> None:
    generator = random.Random(0)
    packer = BestFitPacker(100, 50)
    returned: set[int] = set()
    for rows, row in enumerate(
        itertools.islice(packer.pack((n, generator.randint(1, 100)) for n in itertools.count()), 2000), 1
    ):
        returned.update(row)
        assert packer.taken - len(returned) < 50
        assert set(range(rows - 50)) <= returned
    assert packer.rows == 2000


@pytest.mark.parametrize("stop", [0, 1, 17, 100, 1_000_000])
def test_a_saved_state_goes_on_with_the_same_rows(stop: int) -> None:
    lengths = lengths_of("instructions", 1500)
    numbered = [(7 * number, length) for number, length in enumerate(lengths)]  # numbers need not be consecutive
    whole = BestFitPacker(2048, 100)
    expected = list(whole.pack(numbered))
    before = BestFitPacker(2048, 100)
    rows = list(itertools.islice(before.pack(numbered), stop))
    state = json.loads(json.dumps(before.state_dict()))
    after = BestFitPacker(2048, 100)
    after.load_state_dict(state)
    assert after.state_dict() == before.state_dict()
    rows += after.pack(numbered[after.taken :])
    assert rows == expected
    assert (after.taken, after.rows, after.efficiency) == (whole.taken, whole.rows, whole.efficiency)


def test_a_state_of_other_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="'row_length': 512.*'row_length': 2048"):
        BestFitPacker(2048).load_state_dict(BestFitPacker(512).state_dict())


@pytest.mark.parametrize("length", [0, 11])
def test_a_sample_that_no_row_takes_is_named(length: int) -> None:
    with pytest.raises(ValueError, match=f"sample 42 has {length} tokens, but a row takes samples of 1 to 10"):
        list(BestFitPacker(10).pack([(41, 10), (42, length)]))


@pytest.mark.parametrize("sizes", [(0, 4), (4, 0)])
def test_rows_and_buffers_of_nothing_are_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        BestFitPacker(*sizes)


def pixels(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, 2, 2)


def test_a_row_and_its_padding_by_hand() -> None:
    picture = {"input_ids": [9, 9, 5, 6], "labels": [-100, -100, 5, 6], "mm_token_type_ids": [1, 1, 0, 0]}
    text = {"input_ids": [7, 8], "labels": [7, 8], "mm_token_type_ids": [0, 0], "attention_mask": [1, 1]}
    row = pack_encoded([text, picture | {"pixel_values": pixels(1)}, text])
    assert {name: row[name] for name in row if name != "pixel_values"} == {
        "input_ids": [7, 8, 9, 9, 5, 6, 7, 8],
        "labels": [-100, 8, -100, -100, 5, 6, -100, 8],
        "mm_token_type_ids": [0, 0, 1, 1, 0, 0, 0, 0],
        "position_ids": [0, 1, 0, 1, 2, 3, 0, 1],
    }
    shorter = pack_encoded([picture | {"pixel_values": pixels(2)}, text])
    batch = pad_packed([row, shorter, pack_encoded([text])], pad_token_id=3)
    assert set(batch) == {"input_ids", "labels", "mm_token_type_ids", "position_ids", "pixel_values"}
    assert batch["input_ids"][1:].tolist() == [[9, 9, 5, 6, 7, 8, 3, 3], [7, 8, 3, 3, 3, 3, 3, 3]]
    assert batch["labels"][1:].tolist() == [[-100, -100, 5, 6, -100, 8, -100, -100], [-100, 8] + [-100] * 6]
    assert batch["mm_token_type_ids"][1:].tolist() == [[1, 1, 0, 0, 0, 0, 0, 0], [0] * 8]
    assert batch["position_ids"][1:].tolist() == [[0, 1, 2, 3, 0, 1, 0, 1], [0, 1, 0, 1, 2, 3, 4, 5]]
    assert batch["pixel_values"].equal(pixels(1, 2))
    assert pad_packed([row], 3, length=11)["position_ids"].tolist() == [[0, 1, 0, 1, 2, 3, 0, 1, 0, 1, 2]]


def test_packing_leaves_the_samples_as_they_are() -> None:
    text = {"input_ids": [7, 8], "labels": [7, 8], "mm_token_type_ids": [0, 0]}
    row = pack_encoded([text, text])
    pad_packed([row], 0, length=9)
    assert text["input_ids"] == text["labels"] == [7, 8] and row["position_ids"] == [0, 1, 0, 1]


def test_what_cannot_be_packed_is_named() -> None:
    text = {"input_ids": [7, 8], "labels": [7, 8], "mm_token_type_ids": [0, 0]}
    with pytest.raises(ValueError, match="nothing to pack"):
        pack_encoded([])
    with pytest.raises(ValueError, match="sample 1 has no labels"):
        pack_encoded([text, {"input_ids": [7], "mm_token_type_ids": [0]}])
    with pytest.raises(ValueError, match="nothing to pad"):
        pad_packed([], 0)
    with pytest.raises(ValueError, match="row 1 has 4 tokens, more than length=3"):
        pad_packed([pack_encoded([text]), pack_encoded([text, text])], 0, length=3)


def test_whatever_the_processor_encodes_can_be_packed() -> None:
    image_processor = Owl2ImageProcessor(size={"height": 4, "width": 4})
    tokenizer = AutoTokenizer.from_pretrained(GOLDENS / "tokenizer")
    processor = Owl2Processor(image_processor, tokenizer, num_image_tokens=4)
    red, green, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue"))
    turns = [{"role": "user", "content": "<|image|><|image|>Which?"}, {"role": "assistant", "content": "The first."}]
    samples = [
        processor.encode_text("Plain text."),
        processor.encode_conversation(turns, images=[green, red]),
        processor.encode_pair("A caption.", blue),
    ]
    batch = pad_packed([pack_encoded(samples)], tokenizer.pad_token_id)
    assert batch["input_ids"].tolist() == [[token for each in samples for token in each["input_ids"]]]
    assert batch["position_ids"].tolist() == [[n for each in samples for n in range(len(each["input_ids"]))]]
    brightest = batch["pixel_values"].mean(dim=(2, 3)).argmax(dim=1)
    assert brightest.tolist() == [1, 0, 2]


ROWS: list[list[list[int | str]]] = [
    [[9], [IMAGE, 5], [IMAGE, 2, IMAGE, 6], [7]],
    [[4, IMAGE, 5], [3]],
    [[2], [IMAGE, IMAGE, 4]],
]
"""Samples of three packed rows; the second and third need padding."""


def encoded(config: Any, parts: list[int | str], seed: int) -> dict[str, Any]:
    """A sample as the processor encodes it, whose text is all learnt, its first token included."""
    inputs = sample(config, parts, seed)
    ids = inputs["input_ids"][0].tolist()
    is_image = [token == config.image_token_id for token in ids]
    made = {
        "input_ids": ids,
        "attention_mask": [1] * len(ids),
        "mm_token_type_ids": [int(image) for image in is_image],
        "labels": [-100 if image else token for token, image in zip(ids, is_image, strict=True)],
    }
    return made if inputs["pixel_values"] is None else made | {"pixel_values": inputs["pixel_values"]}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_a_packed_sample_has_the_loss_it_has_alone(attention: str) -> None:
    model = tiny_model(attention=attention)
    rows = [[encoded(model.config, parts, 10 * row + n) for n, parts in enumerate(ROWS[row])] for row in range(3)]
    batch = pad_packed([pack_encoded(row) for row in rows], pad_token_id=0, length=45)
    assert "attention_mask" not in batch
    total = 0.0
    for index, row in enumerate(rows):
        start = 0
        for each in row:
            length = len(each["input_ids"])
            own = torch.full_like(batch["labels"], -100)
            own[index, start : start + length] = batch["labels"][index, start : start + length]
            packed = model(**{**batch, "labels": own}, num_items_in_batch=1).loss.item()
            alone = summed_loss(model, each)
            assert packed == pytest.approx(alone, rel=1e-5), f"row {index}, sample at {start}"
            start, total = start + length, total + alone
    assert model(**batch, num_items_in_batch=1).loss.item() == pytest.approx(total, rel=1e-5)


def summed_loss(model: Any, each: dict[str, Any]) -> float:
    """Loss of a sample alone, summed over the tokens that follow another of its tokens."""
    ids, labels = torch.tensor([each["input_ids"]]), torch.tensor(each["labels"])
    logits = model(input_ids=ids, pixel_values=each.get("pixel_values")).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, labels[1:], reduction="sum").item()
