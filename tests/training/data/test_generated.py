"""Generated scenes as sources of both stages."""

import pytest

from owl2.data.sources.scenes.records import SceneConversations, ScenePairs, SceneSettings
from owl2.training.data.stage_data import open_stage_data
from owl2.training.recipe.data import SourceSettings
from owl2.training.recipe.yaml_file import load_recipe

RECIPES = {stage: f"owl2/recipes/scenes/{stage}.yaml" for stage in ("pretrain", "instruct")}


def opened(stage, tmp_path, **keys):
    recipe = load_recipe(RECIPES[stage], ["seed=5"])
    return open_stage_data(
        recipe, {"scenes": SourceSettings(format="scenes", difficulty="easy", count=6, **keys)}, tmp_path
    )


def test_stage_1_reads_the_pairs_of_the_recipes_seed_and_image_size(tmp_path):
    source = opened("pretrain", tmp_path).sources[0]
    pairs = ScenePairs(SceneSettings(count=6, seed=5, difficulty="easy", image_size=64))
    assert [source.read(0, n)[:3] for n in range(6)] == [tuple(pairs[n]) for n in range(6)]


def test_stage_2_draws_every_conversation_once_an_epoch(tmp_path):
    data = opened("instruct", tmp_path, kinds=["vqa", "text"], split="held_out", seed=9)
    drawn = [data.records.find(draw) for draw in data.take(6)]
    conversations = SceneConversations(
        SceneSettings(count=6, seed=9, split="held_out", difficulty="easy", kinds=("vqa", "text"))
    )
    assert sorted(number for _, number in drawn) == list(range(6))
    assert all(records[number] == conversations[number] for records, number in drawn)
    for records, number in drawn:
        size, texts = records.size(number), [part for m in records[number].messages for part in m["content"]]
        assert size.images == len(records[number].images)
        assert size.text_bytes == sum(len(part["text"]) for part in texts if part["type"] == "text")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.sources.scenes.path=x", "takes no path"),
        ("data.sources.scenes.kinds=[sound]", "kinds"),
        ("data.sources.scenes.kinds=[]", "kinds"),
        ("data.sources.scenes.difficulty=extreme", "difficulty"),
        ("data.sources.scenes.count=0", "count"),
        ("data.sources={easy: {format: easy_vqa, count: 5}}", "count is a key of scenes"),
        ("data.sources={easy: {format: easy_vqa, split: held_out}}", "only scenes"),
    ],
)
def test_settings_that_scenes_do_not_have_are_refused(override, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(RECIPES["instruct"], [override])
