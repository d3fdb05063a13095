"""The directory of a run: whose it is, and what is in it once."""

from pathlib import Path

import pytest
from training.tiny_recipes import curve, metrics, run_recipe, stop_after


def test_lines_written_after_the_last_checkpoint_are_not_there_twice(data: Path, tmp_path: Path) -> None:
    stop_after(data, tmp_path / "run", 2)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 9.0}\n')  # as if the run had been killed in step 4
    run_recipe(data, "instruct", tmp_path / "run")
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3]


@pytest.mark.parametrize("name", ["checkpoint", "checkpoints"])
def test_a_directory_in_which_no_run_began_is_no_finished_run(data: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()  # as the quickstart leaves it, or after the recipe was lost
    with pytest.raises(ValueError, match=rf"holds {name}, but no run began there \(recipe.yaml is missing\)"):
        run_recipe(data, "pretrain", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_run_that_began_under_former_names_of_keys_resumes(
    data: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    stop_after(data, tmp_path / "run", 2)
    recipe = tmp_path / "run" / "recipe.yaml"
    written = recipe.read_text()
    for former, present in (
        ("clip", "max_grad_norm"),
        ("minimum_rate", "min_learning_rate"),
        ("language_rate", "language_lr_scale"),
        ("global_size", "global_batch_size"),
        ("micro_size", "micro_batch_size"),
        ("vision_half", "decoder_vision"),
        ("text_half", "decoder_text"),
        ("shared", "decoder_shared"),
    ):
        assert present in written
        written = written.replace(present, former)
    recipe.write_text(written)
    finished, _ = run_recipe(data, "instruct", tmp_path / "run")
    assert finished and curve(tmp_path / "run") == curve(whole["instruct"])


def test_a_damaged_recipe_of_a_run_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("seed: [")
    with pytest.raises(ValueError, match="recipe.yaml is not YAML"):
        run_recipe(data, "pretrain", tmp_path)


def test_another_recipe_in_the_same_directory_is_refused_with_the_keys_that_differ(
    data: Path, whole: dict[str, Path]
) -> None:
    with pytest.raises(ValueError, match=r"another recipe.*optimizer.max_grad_norm: 1.0, 2.0; seed: 0, 1"):
        run_recipe(data, "pretrain", whole["pretrain"], "optimizer.max_grad_norm=2", "seed=1")
    finished, _ = run_recipe(data, "pretrain", whole["pretrain"], "batch.micro_batch_size=8", "logging.every=5")
    assert finished  # these do not decide what is learnt
