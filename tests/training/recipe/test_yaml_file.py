"""Recipes as files: inheritance, overrides, errors that name the key and its file."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from training.tiny_recipes import changed_recipe, write_recipes

from owl2.training.recipe.yaml_file import differing_keys, dump_recipe, load_recipe, parse_recipe


@pytest.mark.parametrize(
    ("settings", "key", "neighbour"),
    [
        ({"optimizer": {"learning_rat": 1}}, "optimizer.learning_rat", "optimizer.learning_rate"),
        ({"optimiser": {"max_grad_norm": 1}}, "optimiser", "optimizer"),
        ({"data": {"sources": {"mine": {"pth": "x"}}}}, "data.sources.mine.pth", "data.sources.mine.path"),
        ({"train": {"compile": True}}, "train.compile", "parallel.compile"),
        ({"model": {"initialize": {"visoin": {}}}}, "model.initialize.visoin", "model.initialize.vision"),
        ({"evaluate": {"tasks": {"pope": {"limt": 5}}}}, "evaluate.tasks.pope.limt", "evaluate.tasks.pope.limit"),
        ({"zzz": 1}, "zzz", None),
    ],
)
def test_an_unknown_key_is_named_with_its_nearest_neighbour_and_its_file(
    directory: Path, settings: dict[str, Any], key: str, neighbour: str | None
) -> None:
    with pytest.raises(ValueError) as caught:
        load_recipe(changed_recipe(directory, **settings))
    hint = "" if neighbour is None else f"; did you mean {neighbour}?"
    assert f"changed.yaml: there is no key {key}{hint}" in str(caught.value)
    assert neighbour is not None or "did you mean" not in str(caught.value)


def test_overrides_count_over_the_file_and_the_file_over_its_base(directory: Path) -> None:
    file = changed_recipe(directory, optimizer={"learning_rate": 0.5, "max_grad_norm": 2.0})
    recipe = load_recipe(file, ["optimizer.learning_rate=1e-4", "out=runs/x", "data.sources.pairs.weight=2"])
    assert (recipe.optimizer.learning_rate, recipe.optimizer.max_grad_norm, recipe.optimizer.weight_decay) == (
        1e-4,
        2.0,
        0.05,
    )
    assert recipe.out == "runs/x" and recipe.data.sources["pairs"].weight == 2.0
    with pytest.raises(
        ValueError,
        match="the command line: there is no key optimizer.max_gard_norm; did you mean optimizer.max_grad_norm",
    ):
        load_recipe(file, ["optimizer.max_gard_norm=1"])
    for wrong in ("optimizer.max_grad_norm", "=3", "a..b=1"):
        with pytest.raises(ValueError, match="is not an override: write section.key=value"):
            load_recipe(file, [wrong])


def test_a_file_replaces_the_sources_of_its_base(directory: Path) -> None:
    file = changed_recipe(directory, data={"sources": {"mine": {"format": "parquet", "path": "x"}}})
    assert list(load_recipe(file).data.sources) == ["mine"]
    assert list(load_recipe(file, ["data.sources.more={format: easy_vqa}"]).data.sources) == ["mine", "more"]


def test_a_file_replaces_the_tasks_of_its_base(directory: Path) -> None:
    (directory / "base.yaml").write_text("base: pretrain.yaml\nevaluate: {every: 5, tasks: {pope: {limit: 3}}}\n")
    (directory / "own.yaml").write_text("base: base.yaml\nevaluate: {tasks: {easy_vqa: {}}}\n")
    evaluate = load_recipe(directory / "own.yaml", ["evaluate.tasks.easy_vqa.limit=7"]).evaluate
    assert evaluate.every == 5 and list(evaluate.tasks) == ["easy_vqa"] and evaluate.tasks["easy_vqa"].limit == 7


def test_of_checkpoint_and_initialize_the_one_given_last_counts(directory: Path) -> None:
    from_checkpoint = load_recipe(directory / "pretrain.yaml", ["model.checkpoint=DIR"]).model
    assert from_checkpoint.checkpoint == "DIR" and from_checkpoint.initialize is None
    file = changed_recipe(directory, model={"checkpoint": "DIR"})
    again = load_recipe(file, ["model.initialize={language_model: LLM}"]).model
    assert again.checkpoint is None and again.initialize is not None and again.initialize.language_model == "LLM"


def test_a_recipe_based_on_itself_and_files_that_are_no_recipes_are_refused(directory: Path) -> None:
    (directory / "one.yaml").write_text("base: two.yaml\n")
    (directory / "two.yaml").write_text("base: one.yaml\n")
    with pytest.raises(ValueError, match="based on itself: .*one.yaml -> .*two.yaml -> .*one.yaml"):
        load_recipe(directory / "one.yaml")
    for text, message in (
        ("- 1", "holds no sections"),
        ("a: [", "is not YAML"),
        ("seed: 1\nseed: 2", "bad.yaml is not YAML: line 1: the key 'seed' is repeated"),
        ("base: 3", "base must be the path"),
    ):
        (directory / "bad.yaml").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_recipe(directory / "bad.yaml")
    with pytest.raises(ValueError, match="there is no recipe .*absent.yaml"):
        load_recipe(directory / "absent.yaml")


def test_the_resolved_recipe_is_the_same_recipe_when_it_is_read_again(directory: Path) -> None:
    recipe = load_recipe(directory / "instruct.yaml", ["out=here"])
    again = parse_recipe(yaml.safe_load(dump_recipe(recipe)), "again")
    assert again == recipe and differing_keys(recipe, again) == []
    other = load_recipe(directory / "instruct.yaml", ["seed=4"])
    assert differing_keys(recipe, other) == ["seed: 0, 4", "out: 'here', None"]


@pytest.mark.parametrize("section", ["evaluate", "data", "optimizer"])
def test_a_mistake_in_a_child_is_blamed_on_the_child(tmp_path: Path, section: str) -> None:
    write_recipes(tmp_path)
    base = yaml.safe_load((tmp_path / "pretrain.yaml").read_text())
    base["evaluate"] = {"every": 10, "samples": 4}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "child.yaml").write_text(yaml.safe_dump({"base": "base.yaml", section: {"evry": 1}}))
    with pytest.raises(ValueError, match=rf"child\.yaml: there is no key {section}\.evry"):
        load_recipe(tmp_path / "child.yaml")


def test_two_keys_that_do_not_fit_are_blamed_on_the_last_file_of_their_section(tmp_path: Path) -> None:
    write_recipes(tmp_path)
    packing = {"packing": {"enabled": True, "length": 8}}  # below the base's max_length
    (tmp_path / "child.yaml").write_text(yaml.safe_dump({"base": "pretrain.yaml", "data": packing}))
    with pytest.raises(ValueError, match=r"child\.yaml: data: packing\.length 8 is below max_length 64"):
        load_recipe(tmp_path / "child.yaml")


def test_a_mistake_in_the_base_stays_the_bases(tmp_path: Path) -> None:
    write_recipes(tmp_path)
    base = yaml.safe_load((tmp_path / "pretrain.yaml").read_text())
    base["data"]["max_length"] = "long"
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "child.yaml").write_text(yaml.safe_dump({"base": "base.yaml", "data": {"augment": False}}))
    with pytest.raises(ValueError, match=r"base\.yaml: data\.max_length"):
        load_recipe(tmp_path / "child.yaml")
