"""A full or read-only disk: one line that names it, nothing lost, and the same call goes on when there is room."""

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from data.pairs.conftest import img2dataset_shard
from training.tiny_recipes import curve, metrics, run_recipe
from wear.conftest import SmallDisk

from owl2.data.mixture.cache import record_file_entry
from owl2.data.pairs import PairCheck, index_shards, open_pairs
from owl2.evaluation import runner
from owl2.evaluation.inference.predictor import Predictor
from owl2.evaluation.inference.ranks import Ranks
from owl2.evaluation.plan import Settings, plan_task
from owl2.evaluation.prediction_files import read_predictions
from owl2.evaluation.runner import predict
from owl2.evaluation.tasks import task_named
from owl2.files import write_whole


def assert_one_line_about(disk: Path, error: BaseException) -> None:
    text = str(error)
    assert str(disk) in text and "\n" not in text
    assert "No space left" in text or "written" in text


@pytest.mark.parametrize("asynchronous", [False, True], ids=["at once", "in the background"])
def test_a_run_whose_checkpoint_finds_no_room_goes_on_from_the_one_before(
    asynchronous: bool, data: Path, small_disk: SmallDisk, tmp_path: Path
) -> None:
    settings = ("schedule.steps=4", "checkpoint.every=1", f"checkpoint.asynchronous={str(asynchronous).lower()}")
    run_recipe(data, "instruct", tmp_path / "whole", *settings)
    out = small_disk.path / "run"

    def fill_after_two(step: int) -> None:
        if step == 2:
            small_disk.fill(leaving=4096)

    with pytest.raises(OSError) as raised:
        run_recipe(data, "instruct", out, *settings, on_step=fill_after_two)
    assert_one_line_about(small_disk.path, raised.value)
    assert not list((out / "checkpoints").glob("*.partial"))
    small_disk.make_room()
    finished, printed = run_recipe(data, "instruct", out, *settings)
    assert finished and ("resumes after step 1" in printed or "resumes after step 2" in printed)
    assert curve(out) == curve(tmp_path / "whole") and [line["step"] for line in metrics(out)] == [1, 2, 3, 4]


def test_a_run_whose_model_finds_no_room_saves_it_later(data: Path, small_disk: SmallDisk) -> None:
    out = small_disk.path / "run"
    with pytest.MonkeyPatch.context() as patch:
        from owl2.training import run

        save = run.save_final_model

        def without_room(*arguments: Any) -> None:
            small_disk.fill(leaving=8192)
            save(*arguments)

        patch.setattr(run, "save_final_model", without_room)
        with pytest.raises(OSError) as raised:
            run_recipe(data, "instruct", out)
    assert_one_line_about(small_disk.path, raised.value)
    small_disk.make_room()
    steps = curve(out)
    assert run_recipe(data, "instruct", out)[0] and curve(out) == steps and (out / "checkpoint").is_dir()


def test_the_recipe_of_a_run_survives_a_full_disk(data: Path, small_disk: SmallDisk) -> None:
    out = small_disk.path / "run"
    run_recipe(data, "instruct", out, "schedule.steps=1", "checkpoint.every=1")
    before = (out / "recipe.yaml").read_bytes()
    (out / "checkpoint").rename(small_disk.path / "moved")
    small_disk.fill()
    with pytest.raises(OSError):
        run_recipe(data, "instruct", out, "schedule.steps=1", "checkpoint.every=1")
    assert (out / "recipe.yaml").read_bytes() == before


def test_an_evaluation_goes_on_behind_what_was_written(
    model: Any, processor: Any, pope: Path, small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan_task(task_named("pope"), Settings(pope, small_disk.path), {"model": {}, "versions": {}})
    asked, original = [], Predictor.predict

    def full_in_the_third_batch(self: Predictor, batch: Any) -> Any:
        asked.append([entry.sample.id for entry in batch])
        if len(asked) == 3:
            small_disk.fill()
        return [replace(record, raw="yes" * 2000) for record in original(self, batch)]

    monkeypatch.setattr(runner.Predictor, "predict", full_in_the_third_batch)
    with pytest.raises(OSError) as raised:
        predict(planned, model, processor, Ranks(), 3)
    assert_one_line_about(small_disk.path, raised.value)
    small_disk.make_room()
    _, records = predict(planned, model, processor, Ranks(), 3)
    assert [record.id for record in records] == [sample.id for sample in planned.samples]
    assert len(asked) == 5 and asked[2] == asked[3]  # the batch that found no room once more, no other
    assert len(read_predictions(planned.directory / "predictions.jsonl")[1]) == 12


def test_an_index_of_shards_is_whole_or_not_there(small_disk: SmallDisk, tmp_path: Path) -> None:
    folder, index = tmp_path / "shards", small_disk.path / "index"
    folder.mkdir()
    for number in range(2):
        img2dataset_shard(folder / f"{number:05d}.tar", number, 20)
    index.mkdir()
    small_disk.fill()
    with pytest.raises(OSError) as raised:
        list(index_shards(folder, index))
    assert_one_line_about(small_disk.path, raised.value)
    assert not list(index.rglob("*.idx")) and not list(index.rglob("*.partial"))
    small_disk.make_room()
    assert [shard.pairs for shard in index_shards(folder, index)] == [20, 20]
    check = PairCheck(open_pairs("web", folder, index=index), most=5)
    assert list(check) == [] and check.read == 5


def records_file(folder: Path) -> Path:
    turns = [{"from": "human", "value": "What? " * 40}, {"from": "gpt", "value": "That."}]
    file = folder / "records.jsonl"
    file.write_text("".join(json.dumps({"id": number, "conversations": turns}) + "\n" for number in range(2000)))
    return file


def test_a_cache_of_records_is_whole_or_not_there(small_disk: SmallDisk, tmp_path: Path) -> None:
    file, cache = records_file(tmp_path), small_disk.path / "cache"
    cache.mkdir()
    small_disk.fill(leaving=16384)
    with pytest.raises(OSError) as raised:
        record_file_entry(cache, "records", file, None)
    assert_one_line_about(small_disk.path, raised.value)
    assert not [path for path in cache.iterdir() if path.is_dir()]
    small_disk.make_room()
    assert (record_file_entry(cache, "records", file, None) / "about.json").is_file()


def test_a_cache_on_a_read_only_disk_is_read_and_what_it_lacks_is_said(small_disk: SmallDisk, tmp_path: Path) -> None:
    file, cache = records_file(tmp_path), small_disk.path / "cache"
    entry = record_file_entry(cache, "records", file, None)
    small_disk.forbid_writing()
    assert record_file_entry(cache, "records", file, None) == entry
    file.touch()  # hashed again, which cannot be remembered
    assert record_file_entry(cache, "records", file, None) == entry
    file.write_text(file.read_text() + file.read_text())
    with pytest.raises(OSError, match="Read-only file system: .*cache"):
        record_file_entry(cache, "records", file, None)


def test_an_error_of_a_file_without_room_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a disk says it that is full, where none can be mounted."""
    file = tmp_path / "a.json"
    file.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError) as raised:
        write_whole(file, "new")
    assert_one_line_about(tmp_path, raised.value)
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
