"""`owl2 serve`: a model over the OpenAI API."""

from pathlib import Path
from typing import Annotated

import typer

from owl2.environment import restart_with_fast_allocation

from .model_options import Base, Bits

EXAMPLE = "owl2 serve -m DIR --port 8000"


def serve(
    model: Annotated[str, typer.Option("--model", "-m", metavar="DIR", help="Directory of the model.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings, for example limits.images=4 engine.max_requests=8."),
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML file of settings; KEY=VALUE changes single ones.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen at; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 8000 by default.")] = None,
    base: Base = None,
    bits: Bits = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")] = "auto",
) -> None:
    """Serve a model over HTTP, with the API of OpenAI: /v1/chat/completions and more."""
    own = [f"{name}={value}" for name, value in (("host", host), ("port", port)) if value is not None]
    try:
        from owl2.files import model_directory
        from owl2.serving.settings import load_settings

        loaded = load_settings(settings, [*(overrides or []), *own])
        model_directory(model)
        restart_with_fast_allocation()
        from owl2.serving.server import serve as run
    except ModuleNotFoundError as error:
        raise ImportError(f"serving needs {error.name}: pip install 'owl2[serve]'") from error
    from transformers.utils import logging

    logging.disable_progress_bar()
    run(model, loaded, dtype, device, base, bits)
