"""`owl2 serve`: a model over the OpenAI API."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from owl2.environment import restart_with_fast_allocation

from .model_options import Base, Bits, Device, Dtype

if TYPE_CHECKING:
    from owl2.serving.settings import ServeSettings

EXAMPLE = "owl2 serve -m DIR --port 8000"

ENGINES = ("embedded", "vllm")


def serve(
    model: Annotated[str, typer.Option("--model", "-m", metavar="DIR", help="Directory of the model.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Settings, for example limits.images=4 engine.max_requests=8; with --engine vllm also its own "
            "options behind --.",
        ),
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML file of settings; KEY=VALUE changes single ones.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen at; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 8000 by default.")] = None,
    base: Base = None,
    bits: Bits = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    engine: Annotated[
        str, typer.Option(help="embedded, or vllm for many users and GPUs (the extra vllm).")
    ] = "embedded",
) -> None:
    """Serve a model over HTTP, with the API of OpenAI: /v1/chat/completions and more."""
    if engine not in ENGINES:
        raise ValueError(f"there is no engine {engine!r}: choose among {', '.join(ENGINES)}")
    own = [f"{name}={value}" for name, value in (("host", host), ("port", port)) if value is not None]
    given = overrides or []
    first = next((index for index, text in enumerate(given) if text.startswith("-") and engine == "vllm"), len(given))

    from owl2.files import model_directory
    from owl2.serving.settings import load_settings

    loaded = load_settings(settings, [*given[:first], *own])
    model_directory(model)
    if engine == "vllm":
        return _serve_by_vllm(model, loaded, base, bits, dtype, device, given[first:])
    restart_with_fast_allocation()
    from transformers.utils import logging

    from owl2.serving.server import serve as run

    logging.disable_progress_bar()
    run(model, loaded, dtype, device, base, bits)


def _serve_by_vllm(
    model: str,
    settings: "ServeSettings",
    base: str | None,
    bits: int | None,
    dtype: str,
    device: str,
    options: list[str],
) -> None:
    if base is not None:
        raise ValueError("--engine vllm takes whole models, and no --base: owl2 merge-lora makes one of an adapter")
    if bits is not None:
        raise ValueError(f"--bits {bits} was not tested in vLLM: leave it out, or serve without --engine vllm")
    if device != "auto":
        raise ValueError(f"with --engine vllm the device is that of the installed vLLM, not --device {device}")
    from owl2.serving.vllm.launch import serve as become_vllm

    become_vllm(model, settings, dtype, options)
