"""Sources opened through the cache: what is read, when, how often, and what it costs."""

import multiprocessing
import pickle
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from owl2.data.mixture import Mixture, MixtureRecipe, RecordSize, load_mixture_recipe
from owl2.data.mixture.report import examples, missing_sources, yields
from owl2.data.records import Conversation
from owl2.data.sampler import Draw, WeightedSampler
from owl2.data.skipped import SkipLimit
from owl2.data.sources import slim_orca as slim_orca_reader
from owl2.data.sources import textcaps as textcaps_reader


def entries(recipe: MixtureRecipe) -> list[Path]:
    return sorted(path for path in recipe.cache.iterdir() if path.is_dir())


def drawn(mixture: Mixture, count: int) -> Iterator[tuple[Draw, Conversation, RecordSize]]:
    """The first draws of a run, with their records and what is known of them."""
    for draw in WeightedSampler(mixture.sources, mixture.recipe.seed).draw(count):
        records = mixture.records(draw.source, draw.epoch)
        number = mixture.order(draw.source).record(draw.epoch, draw.position)
        yield draw, records[number], records.size(number)


def chat(question: str, answer: str = "yes", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **fields}


class TestRecords:
    def test_they_are_what_the_sources_read(self, recipe, slim_orca, textcaps, tmp_path):
        mixture = Mixture(recipe({"slim_orca": slim_orca, "textcaps": textcaps}, seed=4))
        expected = list(slim_orca_reader.conversations(tmp_path / "orca.jsonl"))
        assert [mixture.records("slim_orca")[number] for number in range(30)] == expected
        for epoch in range(3):
            expected = list(textcaps_reader.conversations(tmp_path / "captions.json", tmp_path, 4, epoch))
            assert [mixture.records("textcaps", epoch)[number] for number in range(12)] == expected

    def test_an_epoch_of_captions_has_others_than_the_one_before(self, recipe, textcaps):
        mixture = Mixture(recipe({"textcaps": textcaps}))
        captions: dict[str, Counter[str]] = {}
        for _, conversation, _ in drawn(mixture, 36):
            caption = conversation.messages[1]["content"][0]["text"]
            captions.setdefault(conversation.id, Counter())[caption] += 1
        assert len(captions) == 12 and all(len(found) == 3 for found in captions.values())

    def test_sizes_are_known_without_reading(self, recipe, slim_orca, textcaps, write):
        write("mine.jsonl", [chat("é?", "ja"), chat("<image><video>x", images=["i.png"], videos=["v.gif"])])
        for name in ("i.png", "v.gif"):
            Image.new("L", (2, 2)).save(recipe({"slim_orca": slim_orca}).path.parent / name)
        sources = {"slim_orca": slim_orca, "textcaps": textcaps, "m": {"format": "records", "file": "mine.jsonl"}}
        mixture = Mixture(recipe(sources))
        assert mixture.records("m").size(0) == RecordSize(3 + 2, 0, 0, answers=1)
        assert mixture.records("m").size(1) == RecordSize(1 + 3, 1, 1, answers=1)
        for _, conversation, size in drawn(mixture, 60):
            texts = [part.get("text", "") for message in conversation.messages for part in message["content"]]
            assert size[:2] == (len("".join(texts).encode()), len(conversation.images))

    def test_a_file_of_records_is_read_in_place_without_those_that_are_broken(self, recipe, write, tmp_path):
        Image.new("L", (2, 2)).save(tmp_path / "a.png")
        lines = [chat("1"), chat("<image>2", images=["a.png"]), chat("<image>3"), "text", chat("5")]
        file = write("mine.jsonl", lines)
        made = recipe({"mine": {"format": "records", "file": "mine.jsonl"}})
        records = Mixture(made).records("mine")
        questions = [records[number].messages[0]["content"][-1]["text"] for number in range(len(records))]
        assert questions == ["1", "2", "5"]
        assert records.rejected.records == 2
        assert records.rejected.kinds == {"placeholders and media disagree": 1, "malformed record": 1}
        assert [text.split(": ")[0] for text in records.rejected.named] == [f"{file}, line 3", f"{file}, line 4"]
        assert not list(entries(made)[0].glob("*.jsonl"))

    def test_a_record_whose_image_was_removed_later_is_a_broken_one_that_names_its_line(self, recipe, write, tmp_path):
        Image.new("L", (2, 2)).save(tmp_path / "a.png")
        file = write("mine.json", [chat("1"), chat("<image>2", images=["a.png"])])
        mixture = Mixture(recipe({"mine": {"format": "records", "file": "mine.json"}}))
        (tmp_path / "a.png").unlink()
        with pytest.raises(ValueError, match=f"{file}, line 1: missing file: .*a.png"):
            mixture.records("mine")[1]

    def test_images_of_records_lie_where_the_recipe_says(self, recipe, write, tmp_path):
        (tmp_path / "pictures").mkdir()
        Image.new("L", (2, 2)).save(tmp_path / "pictures" / "a.png")
        write("mine.jsonl", [chat("<image>", images=["a.png"])])
        mixture = Mixture(recipe({"m": {"format": "records", "file": "mine.jsonl", "images": "pictures"}}))
        assert mixture.records("m")[0].images == (str(tmp_path / "pictures" / "a.png"),)

    def test_only_so_many_are_used_as_the_size_says(self, recipe, slim_orca):
        mixture = Mixture(recipe({"slim_orca": {**slim_orca, "size": 7}}))
        assert mixture.sources[0][1:] == (30, 7, 7)
        assert len({conversation.id for _, conversation, _ in drawn(mixture, 50)}) == 7


class TestSkipLimit:
    """As for pairs: at least 100 broken records, and more than 5% of the file's."""

    @pytest.fixture
    def of(self, write, recipe):
        def make(good: int, broken: int) -> MixtureRecipe:
            write("mine.jsonl", [chat("a")] * good + [chat(" ")] * broken)
            return recipe({"mine": {"format": "records", "file": "mine.jsonl"}})

        return make

    @pytest.mark.parametrize(("good", "broken"), [(1900, 100), (1, 99)])
    def test_up_to_it_a_file_is_used(self, of, good, broken):
        records = Mixture(of(good, broken)).records("mine")
        assert (len(records), records.rejected.records) == (good, broken)

    def test_beyond_it_a_file_is_refused_with_counts_also_from_the_cache(self, of, tmp_path):
        made = of(1800, 100)
        for _ in range(2):
            with pytest.raises(ValueError) as error:
                Mixture(made)
            text = str(error.value)
            assert "100 of 1900 records of the source 'mine' are broken, more than 5.0% (empty turn: 100)" in text
            assert f"The first: {tmp_path / 'mine.jsonl'}, line 1801: empty turn" in text

    def test_a_run_may_have_another(self, of):
        made = of(1800, 100)
        mixture = Mixture(made, skip_limit=SkipLimit(share=0.06))
        assert len(pickle.loads(pickle.dumps(mixture)).records("mine")) == 1800  # as in a worker
        with pytest.raises(ValueError, match="more than 1.0%"):
            Mixture(made, skip_limit=SkipLimit(share=0.01))


class TestCache:
    def test_a_source_is_read_once(self, recipe, slim_orca, monkeypatch):
        Mixture(recipe({"slim_orca": slim_orca}))
        monkeypatch.setattr("owl2.data.mixture.mixture.reader", lambda format_: pytest.fail("read again"))
        assert len(Mixture(recipe({"slim_orca": slim_orca})).records("slim_orca")) == 30

    def test_it_does_not_matter_when_the_file_was_written_but_what_it_holds(self, recipe, slim_orca, write, tmp_path):
        made = recipe({"slim_orca": slim_orca})
        Mixture(made)
        first = entries(made)
        (tmp_path / "orca.jsonl").write_bytes((tmp_path / "orca.jsonl").read_bytes())
        Mixture(made)
        assert entries(made) == first
        rows = (tmp_path / "orca.jsonl").read_text().replace("question 29", "question 92")
        (tmp_path / "orca.jsonl").write_text(rows)
        assert "question 92" in str(Mixture(made).records("slim_orca")[29])
        assert len(entries(made)) == 2

    @pytest.mark.parametrize("changes", [{"seed": 1}, {"root": "."}])
    def test_only_what_decides_the_records_makes_another_entry(self, recipe, textcaps, changes):
        made = recipe({"textcaps": textcaps})
        Mixture(made)
        Mixture(recipe({"textcaps": {**textcaps, "weight": 5, "size": 3}}, **changes))
        assert len(entries(made)) == (2 if "seed" in changes else 1)

    def test_records_whose_images_came_later_are_no_longer_left_out(self, recipe, write, tmp_path):
        Image.new("L", (2, 2)).save(tmp_path / "c.png")
        names = ("a.png", "b.png", "c.png")
        write("mine.jsonl", [chat("1"), *[chat("<image>2", images=[name]) for name in names]])
        made = recipe({"mine": {"format": "records", "file": "mine.jsonl"}})
        assert [len(Mixture(made).records("mine")) for _ in range(2)] == [2, 2]
        Image.new("L", (2, 2)).save(tmp_path / "b.png")
        records = Mixture(made).records("mine")
        assert [records[number].id for number in range(len(records))] == ["0", "2", "3"]
        assert records.rejected.records == 1 and len(entries(made)) == 1

    def test_a_broken_source_leaves_nothing_behind_and_names_the_record(self, recipe, slim_orca, tmp_path):
        with (tmp_path / "orca.jsonl").open("a") as file:
            file.write("{}\n")
        made = recipe({"slim_orca": slim_orca})
        with pytest.raises(ValueError, match="orca.jsonl, record 31: has no 'conversations'"):
            Mixture(made)
        assert entries(made) == []

    @pytest.mark.parametrize("source", [{"format": "records", "file": "f.jsonl"}, {"format": "coco_captions"}])
    def test_a_source_without_a_single_record_is_an_error(self, recipe, write, source):
        write("f.jsonl", ["text"])
        write("coco.json", {"images": []})
        if source["format"] != "records":
            source = {**source, "annotations": "coco.json", "images": "."}
        for limit in (None, 5):
            with pytest.raises(ValueError, match="empty_one"):
                Mixture(recipe({"empty_one": source}), limit)

    def test_all_files_that_are_missing_are_named_before_anything_is_read(self, recipe, slim_orca, tmp_path):
        sources = {"slim_orca": slim_orca, "textcaps": {"annotations": "no.json", "images": "no"}}
        made = recipe(sources)
        with pytest.raises(ValueError) as error:
            Mixture(made)
        assert f"textcaps: annotations {tmp_path / 'no.json'}; textcaps: images {tmp_path / 'no'}" in str(error.value)
        assert not made.cache.exists()

    def test_processes_that_begin_together_read_a_source_once(self, recipe, slim_orca, tmp_path):
        made = recipe({"slim_orca": slim_orca})
        context = multiprocessing.get_context("fork")
        workers = [context.Process(target=_open_slowly, args=(made, tmp_path / f"read-{rank}")) for rank in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0] * 4
        assert len(list(tmp_path.glob("read-*"))) == 1 and len(entries(made)) == 1


def _open_slowly(made: MixtureRecipe, mark: Path) -> None:
    from owl2.data.mixture import mixture

    read = slim_orca_reader.conversations

    def marked(annotations: Path):
        mark.touch()
        time.sleep(0.3)
        return read(annotations)

    mixture.reader = lambda format_: marked
    assert len(Mixture(made).records("slim_orca")) == 30


class TestCost:
    """1.2 M conversations open in under a second, and the memory of workers does not grow: docs/train/mixtures.md."""

    SOURCES = {"slim_orca": {"annotations": "s.jsonl"}, "mine": {"format": "records", "file": "m.jsonl"}}

    @pytest.fixture
    def of(self, write, recipe):
        def make(count: int) -> MixtureRecipe:
            turns = [{"from": "human", "value": "what? " * 10}, {"from": "gpt", "value": "that " * 20}]
            write("s.jsonl", [{"conversations": turns}] * count)
            write("m.jsonl", [chat("what? " * 10, "that " * 20)] * count)
            made = recipe(self.SOURCES)
            Mixture(made)
            return made

        return make

    def test_the_memory_of_an_open_mixture_does_not_grow_with_its_records(self, of):
        held = []
        for count in (100, 10_000):
            made = of(count)
            Mixture(made)  # what is allocated once
            tracemalloc.start()
            mixture = Mixture(made)
            for _ in drawn(mixture, 200):
                pass
            held.append(tracemalloc.get_traced_memory()[0])
            tracemalloc.stop()
        assert held[1] < held[0] + 10_000  # a byte a record

    def test_opening_reads_no_record(self, of):
        made = of(50)
        stored = next(entry for entry in entries(made) if entry.name.startswith("slim_orca")) / "records.jsonl"
        stored.write_bytes(b"x" * stored.stat().st_size)
        mixture = Mixture(made)
        assert [source.found for source in mixture.sources] == [50, 50]
        assert mixture.records("slim_orca").size(7).text_bytes == len("what? " * 10 + "that " * 20) - 2
        with pytest.raises(ValueError):
            mixture.records("slim_orca")[7]

    def test_another_process_is_sent_paths_not_records(self, of):
        mixture = Mixture(of(5000))
        sent = pickle.dumps(mixture)
        assert len(sent) < 5000
        assert pickle.loads(sent).records("mine")[4999] == mixture.records("mine")[4999]
        for name in ("slim_orca", "mine"):
            again = pickle.loads(pickle.dumps(mixture.records(name)))
            assert again[4000] == mixture.records(name)[4000] and again.size(3) == mixture.records(name).size(3)


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_the_same_records_as_one_process(recipe, slim_orca, textcaps, start):
    mixture = Mixture(recipe({"slim_orca": slim_orca, "textcaps": textcaps}))
    for name in ("slim_orca", "textcaps"):
        records = mixture.records(name)
        numbers = list(mixture.order(name).records())
        loader: Any = DataLoader(
            records,  # type: ignore[arg-type]
            sampler=numbers,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=2,
            multiprocessing_context=start,
        )
        assert list(loader) == [records[number] for number in numbers]


def _as_it_is(conversation: Conversation) -> Conversation:
    return conversation


class TestReport:
    def test_sources_stand_beside_table_8_with_their_share_of_the_run(self, recipe, slim_orca, textcaps, write):
        write("mine.jsonl", [chat("a")] * 8)
        mine = {"format": "records", "file": "mine.jsonl", "weight": 18}
        mixture = Mixture(recipe({"slim_orca": {**slim_orca, "size": 20}, "textcaps": textcaps, "mine": mine}))
        rows = yields(mixture, samples=1000)
        assert [row[:5] for row in rows] == [
            ("slim_orca", 30, 518_000, 20, 20),
            ("textcaps", 12, 22_000, 12, 12),
            ("mine", 8, None, 8, 18),
            ("total", 50, 540_000, 40, 50),
        ]
        assert [row.share for row in rows] == [0.4, 0.24, 0.36, 1.0]
        assert [row.samples for row in rows] == pytest.approx([400, 240, 360, 1000])
        assert [row.epochs for row in rows] == pytest.approx([20, 20, 45, 25])
        assert yields(mixture)[-1].samples == 40
        assert missing_sources(mixture)[:2] == ["sharegpt", "llava_instruct"] and len(missing_sources(mixture)) == 10

    def test_examples_are_the_records_drawn_first(self, recipe, slim_orca, textcaps):
        mixture = Mixture(recipe({"slim_orca": slim_orca, "textcaps": textcaps}))
        of_textcaps = [conversation for draw, conversation, _ in drawn(mixture, 20) if draw.source == "textcaps"]
        assert list(examples(mixture, "textcaps", 2)) == of_textcaps[:2]

    def test_with_a_limit_only_the_first_records_are_there_and_nothing_is_cached(self, recipe, slim_orca, write):
        write("mine.jsonl", [chat("1"), "text", chat("3"), chat("4")])
        made = recipe({"slim_orca": slim_orca, "mine": {"format": "records", "file": "mine.jsonl"}})
        mixture = Mixture(made, limit=2)
        assert [source.found for source in mixture.sources] == [2, 2]
        assert mixture.records("mine")[1].messages[0]["content"][0]["text"] == "3"
        assert mixture.records("mine").size(1) == RecordSize(4, 0, 0, answers=1)
        assert mixture.records("mine").rejected.records == 1
        assert not made.cache.exists()


def test_a_recipe_read_again_gives_the_same_stream(recipe, slim_orca, textcaps):
    made = recipe({"slim_orca": slim_orca, "textcaps": textcaps}, seed=9)
    again = load_mixture_recipe(made.path)
    assert list(drawn(Mixture(made), 50)) == list(drawn(Mixture(again), 50))
