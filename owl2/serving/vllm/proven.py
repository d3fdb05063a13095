"""Refuses what the plugin was not tested with: an answer that differs from `generate` would not be noticed."""

from typing import TYPE_CHECKING

from . import MODE

if TYPE_CHECKING:
    from vllm.config import VllmConfig

    from owl2.modeling import Owl2Config

_SEVERAL_DEVICES = "each model is on one device, so give --data-parallel-size, or start several servers"

UNPROVEN = {
    "--tensor-parallel-size": _SEVERAL_DEVICES,
    "--pipeline-parallel-size": _SEVERAL_DEVICES,
    "--quantization": "leave it out",
    "--kv-cache-dtype": "leave it out",
    "--enable-lora": "merge the adapter first, with owl2 merge-lora",
    "--speculative-config": "leave it out",
    "--enable-prompt-embeds": "leave it out",
    "--enable-mm-embeds": "leave it out",
    "--runner": "leave it out",
    "--model-impl": "leave it out: the model of transformers loses the modality of tokens in vLLM",
}
"""Options of vLLM that were not compared with `generate`, and what to do instead."""


def refuse_model(config: "Owl2Config") -> None:
    """Refuses models with parts that were not compared with `generate`.

    Raises:
        ValueError: Names the setting and its value.
    """
    text = config.text_config
    unproven = {
        "qk_norm": text.qk_norm,
        "sliding_window": text.sliding_window,
        "routing": None if text.routing == "modality" else text.routing,
        "kv_adapter_rank": text.kv_adapter_rank,
        "connector": None if config.connector == "abstractor" else config.connector,
    }
    found = [f"{name}={value!r}" for name, value in unproven.items() if value]
    if found:
        raise ValueError(
            f"models with {', '.join(found)} were not tested in vLLM: use owl2 serve without --engine vllm"
        )


def refuse_unproven(vllm_config: "VllmConfig") -> None:
    """Refuses settings of vLLM, and models, that were not compared with `generate`.

    Raises:
        ValueError: Names the setting, its value, and what to do.
    """
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    refuse_model(model.hf_config)
    if model.tokenizer_mode != MODE:
        raise ValueError(f"--tokenizer-mode is {model.tokenizer_mode!r}: mPLUG-Owl2 in vLLM needs {MODE!r}")
    if not model.enforce_eager:
        raise ValueError("compilation and CUDA graphs were not tested with mPLUG-Owl2 in vLLM: give --enforce-eager")
    if vllm_config.use_v2_model_runner:  # the default on GPUs
        raise ValueError("version 2 of vLLM's model runner was not tested: set VLLM_USE_V2_MODEL_RUNNER=0")
    given = {
        "--tensor-parallel-size": parallel.tensor_parallel_size > 1,
        "--pipeline-parallel-size": parallel.pipeline_parallel_size > 1,
        "--quantization": model.quantization is not None,
        "--kv-cache-dtype": vllm_config.cache_config.cache_dtype != "auto",
        "--enable-lora": vllm_config.lora_config is not None,
        "--speculative-config": vllm_config.speculative_config is not None,
        "--enable-prompt-embeds": model.enable_prompt_embeds,
        "--enable-mm-embeds": model.get_multimodal_config().enable_mm_embeds,
        "--runner": model.runner_type != "generate",
        "--model-impl": model.model_impl not in ("auto", "vllm"),
    }
    assert set(given) == set(UNPROVEN)
    for option in [option for option, is_given in given.items() if is_given]:
        refuse_option(option)


def refuse_option(option: str) -> None:
    """Refuses an option of vLLM that was not tested, and takes any other.

    Raises:
        ValueError: Names the option and what to do.
    """
    if option in UNPROVEN:
        raise ValueError(f"{option} was not tested with mPLUG-Owl2 in vLLM: {UNPROVEN[option]}")
