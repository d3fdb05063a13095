"""A mistake in a recipe is blamed on the file that has it, whatever its base says of the same section."""

from pathlib import Path

import pytest
import yaml
from training.tiny_recipes import write_recipes

from owl2.training.recipe.yaml_file import load_recipe


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
