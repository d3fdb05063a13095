"""Checkpoints: official layout, and initialisation from a language model and a vision encoder."""

from owl2.modeling.official_checkpoint import official_to_owl2, owl2_to_official, save_official

from .initialize import initialize, load_language_model, load_tokenizer

__all__ = [
    "initialize",
    "load_language_model",
    "load_tokenizer",
    "official_to_owl2",
    "owl2_to_official",
    "save_official",
]
