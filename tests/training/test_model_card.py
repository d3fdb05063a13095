"""The model card says what a run and its model were made of."""

import json
import shutil
from pathlib import Path

import yaml
from training.tiny_recipes import run_recipe

from owl2.training.export import export
from owl2.training.model_card import licence_of


def test_the_model_card_is_written_from_the_run(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "model", step=2, hub_code=True)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "\n# model\n" in card and "Stage `pretrain`, 2 of 3 steps" in card and "the checkpoint checkpoint" in card
    assert "learning_rate:" in card and str(tmp_path.parent) not in card  # the recipe, but no place of this machine
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "README.md").write_text("---\nlicense: llama2\n---\n")
    assert licence_of(str(tmp_path / "base")) == "llama2"


def test_the_model_card_of_a_copy_names_the_licence_of_its_weights(run: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(run / "checkpoint", model)
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    export(model, tmp_path / "copy", hub_code=True)
    assert "| weights | mit |" in (tmp_path / "copy" / "README.md").read_text()


def test_the_model_card_names_the_sources_of_a_mixture_and_the_scores(data: Path, tmp_path: Path) -> None:
    source = {"format": "quality", "annotations": "koniq_train.csv", "images": "koniq"}
    mixture = tmp_path / "opinions.yaml"
    mixture.write_text(yaml.safe_dump({"cache": "cache", "sources": {"koniq": source}}))
    run_recipe(data, "instruct", tmp_path / "run", "schedule.steps=1")
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    recipe["data"]["sources"] = {"all": {"format": "mixture", "path": str(mixture)}}
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    scores = {"quality": {"measure": "srcc", "score": 0.9, "summary": {"srcc": 0.9, "plcc": 0.8}}}
    (tmp_path / "run" / "evaluations.jsonl").write_text(json.dumps({"step": 1, "tasks": scores}) + "\n")
    export(tmp_path / "run", tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| koniq | quality | koniq_train.csv, koniq |" in card and "| data: koniq |" in card
    assert "| quality.srcc | 0.9 |" in card and "| quality.plcc | 0.8 |" in card
    mixture.unlink()
    export(tmp_path / "run", tmp_path / "later")
    assert "| all | mixture | opinions.yaml |" in (tmp_path / "later" / "README.md").read_text()
