"""Recipes of training: read, or refused with the file or the key."""

from pathlib import Path
from typing import Any

import yaml
from fuzz.conftest import Fuzz
from fuzz.inputs import changed_bytes, changed_value
from hypothesis import strategies as st

from owl2.recipes import find_recipe
from owl2.training.recipe.yaml_file import dump_recipe, load_recipe

NAMES = ("pretrain", "instruct", "small/pretrain", "small/instruct")


def test_a_recipe(fuzz: Fuzz, inside: Path) -> None:
    files = [find_recipe(name).read_bytes() for name in NAMES]
    trees = [yaml.safe_load(dump_recipe(load_recipe(name, ["out=run"]))) for name in NAMES]
    written = st.sampled_from(trees).flatmap(changed_value).map(lambda tree: yaml.safe_dump(tree).encode())
    file = inside / "r.yaml"

    def check(contents: bytes) -> None:
        file.write_bytes(contents)
        load_recipe(file)

    fuzz(written | changed_bytes(files), check, 60, "r.yaml")


def test_an_override(fuzz: Fuzz) -> None:
    keys = (
        "schedule.steps",
        "optimizer.learning_rate",
        "data.sources",
        "train.parts",
        "out",
        "base",
        "",
        "a..b",
        "seed",
    )
    texts = (
        "1",
        "[",
        "{a: 1}",
        "1e999",
        "null",
        "",
        "!!python/object:os.system x",
        "&a [*a]",
        "\0",
        "- 1",
        "-1",
        ".nan",
    )
    overrides: Any = st.lists(
        st.tuples(st.sampled_from(keys), st.sampled_from(("=", "", "==")), st.sampled_from(texts)).map("".join),
        max_size=3,
    )
    fuzz(overrides, lambda given: load_recipe("small/pretrain", given), 60)
