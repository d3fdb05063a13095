"""Recipes of the package: found by name, from anywhere, and every one of them can be read."""

import re
from pathlib import Path

import pytest

from owl2.data.mixture.recipe import load_mixture_recipe
from owl2.recipes import description, find_grid, find_recipe, grid_names, recipe_names
from owl2.training.recipe.yaml_file import load_recipe

NAMES = recipe_names()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> Path:
    """A directory that holds nothing, in which the tests run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("mixtures/")])
def test_every_recipe_loads_by_its_name_and_the_mixtures_it_names_are_found(name):
    recipe = load_recipe(name)
    mixtures = [source.path for source in recipe.data.sources.values() if source.format == "mixture"]
    assert all(load_mixture_recipe(path).sources for path in mixtures)
    assert (recipe.stage == "instruct") >= bool(mixtures)


def test_every_recipe_says_in_a_sentence_what_it_is():
    assert len(NAMES) >= 20
    assert all(description(name).endswith(".") or len(description(name)) > 20 for name in NAMES)


def test_data_and_cache_of_a_mixture_of_the_package_lie_where_the_command_runs(elsewhere):
    recipe = load_mixture_recipe("mixtures/table8")
    assert recipe.cache == elsewhere / "data" / "cache"
    assert recipe.sources[0].arguments["annotations"].is_relative_to(elsewhere / "data")


def test_a_file_goes_before_the_recipe_of_that_name(elsewhere):
    (elsewhere / "pretrain").write_text("seed: 7")
    assert find_recipe("pretrain") == Path("pretrain")
    assert find_recipe("instruct").name == "instruct.yaml"


@pytest.mark.parametrize("name", ["small/pretrian", "recipes/small/pretrain.yaml", "small/pretrain.yaml"])
def test_an_unknown_recipe_comes_with_the_nearest_names(name):
    with pytest.raises(ValueError, match="did you mean small/pretrain"):
        find_recipe(name)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("ablations/smal/table5", "ablations/small/table5"),
        ("controls", "ablations/controls"),
        ("table5", "ablations/small/table5 or ablations/table5"),
        ("ablations/controls.yaml", "ablations/controls"),
    ],
)
def test_an_unknown_grid_comes_with_the_nearest_names_alone(name, nearest):
    with pytest.raises(ValueError, match=f"there is no grid {name}: did you mean {nearest}") as caught:
        find_grid(name)
    assert caught.value.args[0].count("ablations/") <= 4


def test_a_grid_that_is_near_none_comes_with_all_of_them():
    with pytest.raises(ValueError, match=re.escape(f"the package has {', '.join(grid_names())}")):
        find_grid("mine")


@pytest.mark.parametrize("name", ["../recipes/pretrain", "/etc/passwd.yaml", "small", ""])
def test_no_name_leads_out_of_the_package(name):
    with pytest.raises(ValueError, match="there is no recipe"):
        find_recipe(name)


def test_a_users_recipe_takes_a_base_by_name_and_a_mixture_beside_it(elsewhere, monkeypatch):
    folder = elsewhere / "mine"
    folder.mkdir()
    (folder / "mixture.yaml").write_text("cache: c\nsources: {records: {format: records, file: a.jsonl}}")
    (folder / "run.yaml").write_text(
        "base: small/instruct\ndata: {sources: {mine: {format: mixture, path: mixture.yaml}}}"
    )
    recipe = load_recipe("mine/run.yaml")
    assert recipe.data.sources["mine"].path == str(Path("mine") / "mixture.yaml")
    assert recipe.seed == load_recipe("small/instruct").seed
    assert load_mixture_recipe(recipe.data.sources["mine"].path).cache == folder / "c"


def test_the_command_lists_and_prints_them(owl2):
    listed = owl2("recipes").stdout.splitlines()
    assert [line.split()[0] for line in listed] == NAMES
    assert owl2("recipes", "small/pretrain").stdout == find_recipe("small/pretrain").read_text()
