"""Saving the processor, and loading it from directories of ours and of the official code."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from owl2.processing import Owl2ImageProcessorPil, Owl2Processor

IMAGE = Image.new("RGB", (8, 6), "red")
PROMPTS = ["USER: <|image|>what is it? ASSISTANT:", " <|image|> x", "<|image|>a</s> b"]


def ids_of(processor: Owl2Processor) -> list[list[int]]:
    return [processor(text=prompt, images=IMAGE)["input_ids"][0] for prompt in PROMPTS]


@pytest.fixture
def official(tmp_path: Path, reference: Path) -> Path:
    """The official layout: a flat configuration, a SentencePiece model, CLIP's image settings."""
    directory = tmp_path / "official"
    directory.mkdir()
    visual = {"visual_model": {"image_size": 56}, "visual_abstractor": {"num_learnable_queries": 2}}
    config = {"model_type": "mplug_owl2", "vocab_size": 320, "visual_config": visual}
    (directory / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(reference / "tokenizer" / name, directory)
    clip = json.loads((reference / "preprocess" / "preprocess.json").read_text())["processor"]
    (directory / "preprocessor_config.json").write_text(json.dumps({**clip, "image_mean": [0.5, 0.5, 0.5]}))
    return directory


def test_saving_and_loading_keeps_everything(processor: Owl2Processor, tmp_path: Path) -> None:
    image_processor = Owl2ImageProcessorPil(size={"height": 28, "width": 28}, aspect="pad")
    saved = Owl2Processor(image_processor, processor.tokenizer, num_image_tokens=5, num_frames=4)
    saved.save_pretrained(tmp_path)
    loaded = Owl2Processor.from_pretrained(tmp_path)
    assert loaded.to_dict() == saved.to_dict()
    assert (loaded.num_image_tokens, loaded.num_frames, loaded.image_processor.aspect) == (5, 4, "pad")
    assert loaded.chat_template == saved.chat_template and loaded.image_token_id == saved.image_token_id
    assert ids_of(loaded) == ids_of(saved)


def test_saving_and_loading_keeps_a_language_models_own_template(
    chatml_processor: Owl2Processor, tmp_path: Path
) -> None:
    chatml_processor.save_pretrained(tmp_path)
    loaded = Owl2Processor.from_pretrained(tmp_path)
    assert loaded.chat_template == chatml_processor.chat_template and ids_of(loaded) == ids_of(chatml_processor)
    loaded.save_pretrained(tmp_path / "again")
    assert Owl2Processor.from_pretrained(tmp_path / "again").chat_template == chatml_processor.chat_template


def test_settings_can_be_given_when_loading(processor: Owl2Processor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    loaded = Owl2Processor.from_pretrained(tmp_path, num_frames=2, aspect="crop")
    assert loaded.num_frames == 2 and loaded.image_processor.aspect == "crop"
    assert dict(loaded.image_processor.size) == {"height": 28, "width": 28}


def test_the_official_layout_gives_rows_size_and_prompt(official: Path, processor: Owl2Processor) -> None:
    loaded = Owl2Processor.from_pretrained(official)
    assert loaded.num_image_tokens == 3  # 2 queries and the end-of-image token
    assert (
        dict(loaded.image_processor.size) == {"height": 56, "width": 56} and loaded.image_processor.aspect == "resize"
    )
    assert tuple(loaded.image_processor.image_mean) == (0.5, 0.5, 0.5)
    assert loaded.image_token_id == 320 and loaded.chat_template == processor.chat_template
    assert ids_of(loaded) == ids_of(processor)


@pytest.mark.parametrize("config", [None, {"tokenizer_class": "LlamaTokenizer"}])
def test_the_official_layout_loads_with_few_files(
    official: Path, processor: Owl2Processor, config: dict[str, Any] | None
) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json", "preprocessor_config.json"):
        (official / name).unlink()
    if config:
        (official / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = Owl2Processor.from_pretrained(official)
    assert ids_of(loaded) == ids_of(processor) and dict(loaded.image_processor.size) == {"height": 56, "width": 56}


def test_a_model_directory_of_ours_gives_rows_and_size(official: Path) -> None:
    config = {"vision_config": {"image_size": 42}, "abstractor_config": {"num_learnable_queries": 8}}
    (official / "config.json").write_text(json.dumps({"model_type": "mplug_owl2", **config}))
    loaded = Owl2Processor.from_pretrained(official)
    assert loaded.num_image_tokens == 9 and dict(loaded.image_processor.size) == {"height": 42, "width": 42}


def test_a_missing_padding_token_is_chosen(llama3_processor: Owl2Processor) -> None:
    assert llama3_processor.tokenizer.pad_token == llama3_processor.tokenizer.eos_token


@pytest.mark.parametrize(("value", "aspect"), [("pad", "pad"), ("square", "resize")])
def test_the_padding_of_the_quality_models_is_honoured(official: Path, value: str, aspect: str) -> None:
    config = json.loads((official / "config.json").read_text())
    (official / "config.json").write_text(json.dumps({**config, "image_aspect_ratio": value}))
    assert Owl2Processor.from_pretrained(official).image_processor.aspect == aspect
