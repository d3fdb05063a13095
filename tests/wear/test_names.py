"""Names in any script, paths with spaces, symbolic links, and Windows line ends, through training and evaluation."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from data.pairs.conftest import img2dataset_shard
from PIL import Image
from pope_data import question, write_pope
from training.tiny_recipes import curve, recipe_of, run_recipe, write_data, write_recipes, write_training

from owl2.checkpoints.inspect import inspect_checkpoint
from owl2.data.check import RecordCheck
from owl2.data.formats import RecordFile
from owl2.data.pairs import PairCheck, index_shards, open_pairs
from owl2.evaluation.evaluate import evaluate
from owl2.evaluation.other_answers import read_answers
from owl2.evaluation.plan import Settings, plan_task
from owl2.evaluation.prediction_files import read_predictions
from owl2.evaluation.tasks import task_named
from owl2.training.recipe.yaml_file import dump_recipe, load_recipe

NAMES = ["mes données", "日本語 のフォルダ", "данные", "بيانات", "e\u0301 in two parts", "a'b\"c", "100%_[x]{y}", "🦉"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in a folder of a plain name."""
    folder = tmp_path_factory.mktemp("plain")
    write_training(folder)
    run_recipe(folder, "instruct", folder / "run")
    return folder


@pytest.mark.parametrize("name", ["mes données", "日本語 のフォルダ 🦉", "a'b\"c 100%_[x]{y}"])
def test_a_run_and_its_evaluation_in_a_folder_of_any_name(name: str, plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    write_training(folder)
    assert run_recipe(folder, "instruct", folder / "ein Lauf")[0]
    assert curve(folder / "ein Lauf") == curve(plain / "run")
    assert inspect_checkpoint(folder / "ein Lauf" / "checkpoint").fits
    root = write_pope(folder / "Daten", [question(n, f"{name}.png") for n in range(4)])
    settings = Settings(root, folder / "Ergebnisse")
    (result,) = evaluate(str(folder / "ein Lauf" / "checkpoint"), ["pope"], settings, device="cpu")
    assert result["samples"] == 12


def test_a_run_through_symbolic_links(plain: Path, tmp_path: Path) -> None:
    """Of the recipe, of its data, and of the place of the run."""
    real, disk = tmp_path / "real", tmp_path / "disk"
    real.mkdir()
    disk.mkdir()
    write_data(real)
    link = tmp_path / "link"
    link.symlink_to(real, target_is_directory=True)
    write_recipes(link)
    (tmp_path / "runs").symlink_to(disk, target_is_directory=True)
    assert run_recipe(link, "instruct", tmp_path / "runs" / "one")[0]
    assert curve(disk / "one") == curve(plain / "run")
    (tmp_path / "model").symlink_to(disk / "one" / "checkpoint", target_is_directory=True)
    assert inspect_checkpoint(tmp_path / "model").fits
    root = write_pope(real / "benchmarks")
    (result,) = evaluate(
        str(tmp_path / "model"), ["pope"], Settings(link / root.name, tmp_path / "runs" / "e"), device="cpu"
    )
    assert result["samples"] == 12


def test_weights_that_are_links_into_a_store_load(plain: Path, tmp_path: Path) -> None:
    """As the cache of the hub keeps them."""
    model, blobs = tmp_path / "snapshots" / "main", tmp_path / "blobs"
    model.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted((plain / "run" / "checkpoint").iterdir())):
        (blobs / str(number)).write_bytes(file.read_bytes())
        (model / file.name).symlink_to(os.path.relpath(blobs / str(number), model))
    assert inspect_checkpoint(model).fits
    (result,) = evaluate(str(model), ["pope"], Settings(write_pope(tmp_path / "b"), tmp_path / "e"), device="cpu")
    assert result["samples"] == 12


@pytest.mark.parametrize("name", NAMES)
def test_records_and_pairs_whose_images_have_any_name(name: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "blue").save(tmp_path / f"{name}.png")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Blue."}]
    record = {"image": f"{name}.png", "conversations": turns}
    pair = {"image": f"{name}.png", "caption": "blue"}
    for is_ascii in (True, False):
        (tmp_path / "r.jsonl").write_text(json.dumps(record, ensure_ascii=is_ascii) + "\n", encoding="utf-8")
        (tmp_path / "p.jsonl").write_text(json.dumps(pair, ensure_ascii=is_ascii) + "\n", encoding="utf-8")
        assert list(RecordCheck(RecordFile(tmp_path / "r.jsonl"), open_media=True)) == []
        check = PairCheck(open_pairs("pairs", tmp_path / "p.jsonl"))
        assert list(check) == [] and check.read == 1
    folder = tmp_path / name
    folder.mkdir()
    img2dataset_shard(folder / f"{name}.tar", 0, 2)
    assert [shard.pairs for shard in index_shards(folder)] == [2]
    check = PairCheck(open_pairs("web", folder))
    assert list(check) == [] and check.read == 2


def windows(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


def test_windows_line_ends_change_nothing_in_recipes_and_records(plain: Path, tmp_path: Path) -> None:
    for name in ("pretrain.yaml", "instruct.yaml"):
        (tmp_path / name).write_bytes(windows((plain / name).read_text()))
    out = tmp_path / "run"
    assert dump_recipe(recipe_of(tmp_path, "instruct", out)) == dump_recipe(recipe_of(plain, "instruct", out))
    text = (plain / "records.jsonl").read_text()
    for name, contents in (("lf", text.encode()), ("crlf", windows(text))):
        (plain / f"{name}.jsonl").write_bytes(contents)
    one, other = (list(RecordFile(plain / f"{name}.jsonl")) for name in ("lf", "crlf"))
    assert one == other


def test_windows_line_ends_change_nothing_in_captions_pairs_and_mixtures(tmp_path: Path) -> None:
    for name, end in (("lf", "\n"), ("crlf", "\r\n")):
        folder = tmp_path / name
        folder.mkdir()
        Image.new("RGB", (8, 8)).save(folder / "a.png")
        (folder / "a.txt").write_bytes(f"a caption{end}".encode())
        rows = [{"image": "a.png", "caption": str(number)} for number in range(3)]
        (tmp_path / f"{name}.jsonl").write_bytes(end.join(map(json.dumps, rows)).encode())
    folders = [open_pairs("f", tmp_path / name).read(0, 0) for name in ("lf", "crlf")]
    assert folders[0].caption == folders[1].caption == "a caption"
    lists = [open_pairs("l", tmp_path / f"{name}.jsonl", root=tmp_path / "lf") for name in ("lf", "crlf")]
    assert [source.groups for source in lists] == [lists[0].groups] * 2
    assert [lists[1].read(0, number).caption for number in range(3)] == ["0", "1", "2"]
    (tmp_path / "r.yaml").write_bytes(windows(yaml.safe_dump({"base": "small/pretrain", "seed": 3})))
    assert load_recipe(tmp_path / "r.yaml").seed == 3


def test_windows_line_ends_change_nothing_in_benchmarks_answers_and_predictions(
    model: Any, processor: Any, tmp_path: Path
) -> None:
    plans = []
    for name, end in (("lf", "\n"), ("crlf", "\r\n")):
        root = write_pope(tmp_path / name, end=end)
        plans.append(plan_task(task_named("pope"), Settings(root, tmp_path / "out"), {}))
    assert [(each.id, each.prompt, each.gold) for each in plans[0].samples] == [
        (each.id, each.prompt, each.gold) for each in plans[1].samples
    ]
    rows = [{"question_id": number, "text": f"answer {number}"} for number in range(3)]
    (tmp_path / "a.jsonl").write_bytes("\r\n".join(map(json.dumps, rows)).encode())
    assert read_answers(tmp_path / "a.jsonl") == {str(number): f"answer {number}" for number in range(3)}
    header = json.dumps({"header": {"task": "pope", "samples": 1}})
    line = json.dumps({"id": "1", "prompt": "p", "raw": "one\r\ntwo", "gold": "yes", "details": {}})
    (tmp_path / "p.jsonl").write_bytes(f"{header}\r\n{line}\r\n".encode())
    assert read_predictions(tmp_path / "p.jsonl")[1][0].raw == "one\r\ntwo"
