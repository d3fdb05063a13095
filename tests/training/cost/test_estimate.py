"""What a recipe is expected to cost."""

from owl2.training.cost.estimate import recipe_cost
from owl2.training.recipe.yaml_file import load_recipe


def test_shorter_samples_cost_less_in_proportion_but_the_micro_batch_stays() -> None:
    recipe = load_recipe("instruct")
    long, short = recipe_cost(recipe, 8), recipe_cost(recipe, 8, text_tokens=300)
    assert short.micro_batch.tokens == long.micro_batch.tokens == 2048 * recipe.batch.micro_batch_size
    assert 0.15 < short.hours / long.hours < 0.25
