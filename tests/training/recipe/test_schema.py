"""Recipes: strict values, and the shipped recipes beside the paper."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from training.tiny_recipes import refusal_of

from owl2.training.recipe.schema import Recipe
from owl2.training.recipe.yaml_file import differing_keys, load_recipe

RECIPES = Path(__file__).parents[3] / "owl2" / "recipes"
SHIPPED = sorted(
    file
    for file in RECIPES.rglob("*.yaml")
    if "mixtures" not in file.parts and not {"arms", "stages"} & set(yaml.safe_load(file.read_text()))
)  # grids of ablations are no recipes
SMALL = ("small", "scenes", "quickstart")
CONTINUED = {f"quickstart/{name}.yaml" for name in ("nano_instruct", "smol_pretrain", "smol_instruct")}
CONTINUED |= {"quality/small.yaml", "quality/small_new_language_model.yaml"}
"""These begin with a small model that another recipe makes."""


def _case(file: Path) -> Any:
    """Adapters are slow to put into an outline of 7 B parameters."""
    slow = [pytest.mark.slow] if "lora" in file.stem and file.parent != RECIPES else []
    return pytest.param(file, marks=slow, id=str(file.relative_to(RECIPES)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parallel": {"tensor": 2, "compile": True}}, "parallel.tensor=2 needs parallel.compile=false"),
        ({"data": {"sources": {"x": {"format": "records", "path": "y"}}}}, "stage pretrain learns from easy_vqa"),
        ({"stage": "instruct"}, "stage instruct learns from"),
    ],
)
def test_sections_that_do_not_fit_each_other_are_refused_in_words(
    directory: Path, settings: dict[str, Any], message: str
) -> None:
    assert message in refusal_of(directory, **settings)


class TestShippedRecipes:
    @pytest.mark.parametrize("file", [_case(file) for file in SHIPPED])
    def test_each_can_be_looked_at_before_anything_is_downloaded(self, file: Path) -> None:
        from owl2.training.model.build import apply_trainable, meta_config
        from owl2.training.model.parameter_table import trainable_table

        recipe = load_recipe(file)
        if file.relative_to(RECIPES).as_posix() in CONTINUED:
            with pytest.raises(ValueError, match=r"runs/quickstart-\w+/.*make first what this recipe begins with"):
                meta_config(recipe)
            return
        if recipe.train.lora is not None:
            pytest.importorskip("peft")
        model = meta_config(recipe).model()
        apply_trainable(model, recipe.train)
        rows = {row.part: row for row in trainable_table(model, recipe.optimizer)}
        trained = {part for part, row in rows.items() if row.trained}
        assert trained == {part for part in recipe.train.parts if part in rows} | (
            {"lora"} if recipe.train.lora else set()
        )
        if file.parent.name not in SMALL and file.stem != "small":
            wanted = 8_197_859_328  # of the published model, at 448 px
            wanted -= 1_074_003_968 if recipe.model.modality_adaptive == () else 0
            wanted -= (1024 - 256) * 1024 if recipe.data.image_size == 224 else 0  # learned positions
            assert sum(row.parameters for row in rows.values() if row.part != "lora") == wanted

    def test_pretrain_is_table_9(self) -> None:
        recipe = load_recipe(RECIPES / "pretrain.yaml")
        assert table_9(recipe) == (1e-4, 1e-6, 0.05, 42_500, 1_000, 8_192, 224, 256)
        assert recipe.train.parts == ("vision_encoder", "abstractor", "decoder_vision")
        assert recipe.data.augment and len(recipe.data.sources) == 5

    def test_instruct_is_table_9(self) -> None:
        recipe = load_recipe(RECIPES / "instruct.yaml")
        assert table_9(recipe) == (2e-5, 1e-7, 0.0, 4_800, 250, 256, 448, 2_048)
        assert set(recipe.train.parts) == {
            "vision_encoder", "abstractor", "decoder_vision", "decoder_text", "decoder_shared", "embeddings"
        }  # fmt: skip

    def test_single_gpu_recipes_learn_the_same(self) -> None:
        for name in ("pretrain", "instruct"):
            one, other = load_recipe(RECIPES / f"{name}.yaml"), load_recipe(RECIPES / f"{name}_single_gpu.yaml")
            different = {line.split(":")[0] for line in differing_keys(one, other)}
            assert different <= {"batch.micro_batch_size", "parallel.activation_checkpointing", "out"}

    def test_table_6_has_three_settings_of_the_vision_encoder(self) -> None:
        base = load_recipe(RECIPES / "instruct.yaml")
        settings = {}
        for name in ("frozen", "trained", "layerwise"):
            recipe = load_recipe(RECIPES / "ablations" / f"table6_{name}_vision.yaml")
            different = {line.split(":")[0] for line in differing_keys(base, recipe)}
            assert different <= {"train.parts", "optimizer.vision_layer_decay", "out"}
            settings[name] = ("vision_encoder" in recipe.train.parts, recipe.optimizer.vision_layer_decay)
        assert settings == {"frozen": (False, 0.9), "trained": (True, 1.0), "layerwise": (True, 0.9)}

    @pytest.mark.parametrize("module", ["with", "without"])
    @pytest.mark.parametrize("method", ["full", "frozen", "lora"])
    def test_table_1_has_three_tuning_methods_with_and_without_the_module(self, method: str, module: str) -> None:
        recipe = load_recipe(RECIPES / "ablations" / f"table1_{method}_{module}_mam.yaml")
        assert recipe.model.modality_adaptive == (("norm", "k", "v") if module == "with" else ())
        assert (recipe.train.lora is not None) == (method == "lora")
        assert ("decoder_shared" in recipe.train.parts) == (method == "full")
        assert ("decoder_vision" in recipe.train.parts) == (module == "with")


def table_9(recipe: Recipe) -> tuple[float, ...]:
    """What differs between the stages; the rest is the same for both and checked here."""
    optimizer, schedule = recipe.optimizer, recipe.schedule
    assert (optimizer.betas, optimizer.eps, optimizer.max_grad_norm) == ((0.9, 0.98), 1e-6, 1.0)
    assert (schedule.kind, recipe.precision, recipe.train.drop_path) == ("cosine", "bf16", 0)
    assert optimizer.vision_layer_decay == 0.9  # section 4.1
    rates = (optimizer.learning_rate, optimizer.min_learning_rate, optimizer.weight_decay)
    data = (recipe.batch.global_batch_size, recipe.data.image_size, recipe.data.max_length)
    return (*rates, schedule.steps, schedule.warmup_steps, *data)
