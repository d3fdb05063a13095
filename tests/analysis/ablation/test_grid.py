"""Grids of runs: what becomes a cell, what is trained once, and what is refused before anything trains."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from training.tiny_recipes import write_training

from owl2.analysis.ablation.ablate import check_metrics
from owl2.analysis.ablation.grid import expand, load_grid, select
from owl2.evaluation.tasks import task_named
from owl2.recipes import find_grid, grid_names, recipe_names


@pytest.fixture
def grid(tmp_path: Path) -> dict[str, Any]:
    """A grid over the tiny recipes beside it."""
    write_training(tmp_path)
    without = {"model.modality_adaptive": [], "train.parts": ["vision_encoder", "abstractor"]}
    return {
        "title": "Toy",
        "question": "Does it help?",
        "stages": {"pretrain": {"recipe": "pretrain.yaml"}, "instruct": {"recipe": "instruct.yaml"}},
        "factors": {
            "arm": {"none": {"pretrain": without}, "mam": {}},
            "rate": {"low": {"instruct": {"optimizer.learning_rate": 1e-4}}, "high": {}},
        },
        "seeds": [0, 1, 2],
        "measure": {"test": {"task": "easy_vqa", "limit": 8}},
        "columns": [{"metric": "test.accuracy", "title": "VQA"}],
        "contrasts": [
            {
                "title": "mam over none",
                "metric": "test.accuracy",
                "plus": [{"arm": "mam", "rate": "low"}],
                "minus": [{"arm": "none", "rate": "low"}],
            }
        ],
    }


def written(directory: Path, grid: dict[str, Any]) -> Path:
    path = directory / "grid.yaml"
    path.write_text(yaml.safe_dump(grid, sort_keys=False))
    return path


def test_every_combination_of_levels_and_seeds_is_a_cell_and_seeds_come_whole(tmp_path, grid):
    cells = expand(load_grid(written(tmp_path, grid)), tmp_path)
    assert [(cell.seed, cell.condition) for cell in cells[:5]] == [
        (0, "arm=none, rate=low"),
        (0, "arm=none, rate=high"),
        (0, "arm=mam, rate=low"),
        (0, "arm=mam, rate=high"),
        (1, "arm=none, rate=low"),
    ]
    assert len(cells) == 12 and len({cell.key for cell in cells}) == 12


def test_a_stage_that_comes_out_the_same_is_one_run(tmp_path, grid):
    cells = expand(load_grid(written(tmp_path, grid)), tmp_path)
    pretrained = [cell.stages[0].directory for cell in cells]
    assert len(set(pretrained)) == 6  # two arms, three seeds; the rate is of stage 2
    assert pretrained[0] == pretrained[1] != pretrained[2]
    assert len({cell.stages[1].directory for cell in cells}) == 12


def test_a_recipe_starts_from_the_model_of_the_stage_before_with_the_seed_of_the_cell(tmp_path, grid):
    cell = expand(load_grid(written(tmp_path, grid)), tmp_path)[-1]
    recipe = cell.stages[1].recipe(tmp_path / "model", tmp_path / "out")
    assert recipe.model.checkpoint == str(tmp_path / "model")
    assert (recipe.out, recipe.seed, cell.stages[0].recipe(None, tmp_path).seed) == (str(tmp_path / "out"), 2, 2)


def test_a_stage_that_names_its_own_seed_is_one_run_for_all_cells(tmp_path, grid):
    grid["stages"]["pretrain"]["overrides"] = {"seed": 5}
    cells = expand(load_grid(written(tmp_path, grid)), tmp_path)
    assert {cell.stages[0].recipe(None, tmp_path).seed for cell in cells} == {5}
    assert len({cell.stages[0].directory for cell in cells}) == 2  # the two arms
    assert {cell.stages[1].recipe(tmp_path, tmp_path).seed for cell in cells} == {0, 1, 2}


def test_what_does_not_decide_what_is_learnt_does_not_make_another_cell(tmp_path, grid):
    before = expand(load_grid(written(tmp_path, grid)), tmp_path)
    grid["stages"]["instruct"]["overrides"] = {"checkpoint.every": 7, "data.workers": 1, "logging.every": 3}
    assert [cell.key for cell in expand(load_grid(written(tmp_path, grid)), tmp_path)] == [c.key for c in before]
    grid["stages"]["pretrain"]["overrides"] = {"optimizer.weight_decay": 0.07}
    assert not {cell.key for cell in expand(load_grid(written(tmp_path, grid)), tmp_path)} & {c.key for c in before}


def test_cells_can_be_left_out_and_levels_chosen(tmp_path, grid):
    grid["without"] = [{"arm": "none", "rate": "high"}]
    loaded = load_grid(written(tmp_path, grid))
    assert len(expand(loaded, tmp_path)) == 9
    chosen = select(loaded, ["rate=high"])
    assert [cell.condition for cell in expand(chosen, tmp_path)] == ["arm=mam, rate=high"] * 3
    assert chosen.contrasts == []  # its cells are not there


def test_the_short_form_has_its_own_seeds_levels_and_steps(tmp_path, grid):
    grid["smoke"] = {"seeds": [7], "only": {"rate": ["low"]}, "overrides": {"instruct": {"schedule.steps": 2}}}
    cells = expand(select(load_grid(written(tmp_path, grid)), [], smoke=True), tmp_path)
    assert [(cell.condition, cell.seed) for cell in cells] == [("arm=none, rate=low", 7), ("arm=mam, rate=low", 7)]
    assert cells[0].stages[1].recipe(tmp_path, tmp_path).schedule.steps == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": [1, 1]}, "each seed can be given once"),
        ({"columns": [{"metric": "tset.accuracy", "title": "x"}]}, "no cell has the metric tset.accuracy"),
        ({"factors": {"arm": {"a": {"pretrian": {}}}}}, "arm=a changes the stage pretrian, but the stages are"),
        ({"factors": {"arm": {}}}, "the factor arm has no level"),
        ({"without": [{"arm": "nome"}]}, "without names arm=nome, but arm is one of none, mam"),
        ({"speed": 3}, "speed: Extra inputs"),
        ({"measure": {"test": {"task": "easy_vqa", "after": "tune"}}}, "test is measured after tune, but the stages"),
        ({"columns": [{"metric": "test.accuracy - other.x", "title": "x"}]}, "no cell has the metric other.x"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused_in_a_line(tmp_path, grid, change, message):
    grid = grid | {"contrasts": []} | change
    with pytest.raises(ValueError, match=message) as error:
        load_grid(written(tmp_path, grid))
    assert "\n" not in str(error.value)


def test_a_contrast_names_a_level_of_each_factor(tmp_path, grid):
    grid["contrasts"][0]["plus"] = [{"arm": "mam"}]
    with pytest.raises(ValueError, match="must name a level of each factor"):
        load_grid(written(tmp_path, grid))


def test_conditions_whose_recipes_are_equal_are_refused(tmp_path, grid):
    grid["factors"]["arm"]["again"] = {"pretrain": {"checkpoint.every": 3}}
    with pytest.raises(ValueError, match="arm=mam, rate=low and arm=again, rate=low are the same run"):
        expand(load_grid(written(tmp_path, grid)), tmp_path)


@pytest.mark.parametrize("only", ["arm=wide", "amr=mam", "arm=", "mam"])
def test_a_selection_that_the_grid_has_not_is_refused(tmp_path, grid, only):
    with pytest.raises(ValueError, match="is one of none, mam|the factor amr|selects nothing"):
        select(load_grid(written(tmp_path, grid)), [only])


@pytest.mark.parametrize("name", grid_names())
def test_every_grid_of_the_package_resolves(name):
    path = find_grid(name)
    loaded = load_grid(path)
    seeds = loaded.model_copy(update={"seeds": loaded.seeds[:1]})
    assert len(expand(seeds, path.parent)) >= 2
    assert len(expand(select(loaded, [], smoke=True), path.parent)) >= 2
    assert name not in recipe_names()


@pytest.mark.parametrize("name", grid_names())
def test_columns_and_contrasts_of_the_packages_grids_are_numbers_that_their_benchmarks_give(name):
    loaded = load_grid(find_grid(name))
    for metric in loaded.metrics():
        measured, _, key = metric.partition(".")
        task = loaded.measure[measured].task if measured in loaded.measure else None
        if task is not None and not task.startswith("scenes"):  # they need files: see what they call their main number
            assert task_named(task).primary_metric == key, metric
    generated = {
        name: entry for name, entry in loaded.measure.items() if entry.task is None or entry.task.startswith("scenes")
    }
    check_metrics(loaded.model_copy(update={"measure": generated}))


def test_the_short_form_may_ask_fewer_questions(tmp_path, grid):
    grid["measure"]["loss"] = {"loss": {"source": {"format": "scenes", "kinds": ["text"]}, "samples": 100}}
    grid["smoke"] = {"limit": 5}
    short = select(load_grid(written(tmp_path, grid)), [], smoke=True)
    assert short.measure["test"].limit == 5 and short.measure["loss"].loss.samples == 5
    assert select(load_grid(written(tmp_path, grid)), []).measure["test"].limit == 8
