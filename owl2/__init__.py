"""owl2: mPLUG-Owl2, a multimodal language model with modality collaboration.

Importing it makes the Auto classes of transformers know the model, without importing transformers: see
`owl2.registration`. Its public names are imported when they are first asked for.
"""

from typing import TYPE_CHECKING, Any

from .lazy import lazy_names
from .registration import register_when_needed

if TYPE_CHECKING:
    from .modeling import (
        CheckpointError,
        Owl2AbstractorConfig,
        Owl2Config,
        Owl2ForConditionalGeneration,
        Owl2LanguageDecoder,
        Owl2Model,
        Owl2TextConfig,
        Owl2VisionConfig,
        Owl2VisionEncoder,
    )
    from .processing import Owl2ImageProcessor, Owl2Processor

    __version__: str

__all__ = [
    "CheckpointError",
    "Owl2AbstractorConfig",
    "Owl2Config",
    "Owl2ForConditionalGeneration",
    "Owl2ImageProcessor",
    "Owl2LanguageDecoder",
    "Owl2Model",
    "Owl2Processor",
    "Owl2TextConfig",
    "Owl2VisionConfig",
    "Owl2VisionEncoder",
]

_OF_PROCESSING = ("Owl2ImageProcessor", "Owl2Processor")
_lazy_name, __dir__ = lazy_names(
    __name__, {name: ".processing" if name in _OF_PROCESSING else ".modeling" for name in __all__}
)


def __getattr__(name: str) -> Any:
    return _installed_version() if name == "__version__" else _lazy_name(name)


def _installed_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("owl2")
    except PackageNotFoundError:  # a source tree on the path
        return "0.0.0"


register_when_needed()
