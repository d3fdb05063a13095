"""Every setting and limit of `owl2 serve` with its default, from a YAML file and the command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RequestLimits(_Section):
    """The limits of a request. What exceeds one is refused with an error that names the limit."""

    body_bytes: Positive = 32 * 2**20
    messages: Positive = 256
    images: Positive = 16
    """The number of images and videos of a request."""
    image_pixels: Positive = 40_000_000
    """Width times height, read from the header before anything is decoded."""
    video_frames: Positive = 2_000
    """The number of frames in a file; the model takes the `num_frames` of its processor."""
    prompt_tokens: Positive | None = None
    """The tokens of a prompt; None is what the context holds."""
    new_tokens: Positive | None = None
    choices: Positive = 8
    stop_texts: Positive = 4
    top_logprobs: Positive = 20
    prompts: Positive = 64
    """The prompts of a request to /v1/completions, and the continuations of one to /v1/score."""
    form_bytes: Positive = 65_536
    """The size of a `response_format`."""
    attention_tokens: Positive = 64
    """The tokens of the word that /attention is asked about."""
    occlusion_groups: Positive = 8
    """The rows and columns of parts of an image that are hidden one after the other."""
    queued: Positive = 256
    """The number of waiting requests of all clients."""
    queued_per_client: Positive = 64
    queue_seconds: NotNegative = 120.0
    answer_seconds: NotNegative = 600.0
    requests_per_minute: NotNegative = 0.0
    """The requests a minute of one client; 0 is no limit."""


class EngineSettings(_Section):
    """The embedded engine."""

    max_requests: Positive = 32
    """The number of answers that are written at the same time."""
    max_batch_tokens: Annotated[int, Field(ge=8)] = 512
    """The tokens of a step; a longer prompt is read in pieces between the tokens of other answers."""
    cache_tokens: Positive | None = None
    """Size of the cache of keys and values. By default, on a GPU what its memory leaves; on a CPU room for
    `max_requests` answers of 1,024 tokens, and always for one that fills the context."""
    page_tokens: Annotated[int, Field(ge=4)] = 32
    """The unit in which the cache is allocated and beginnings of prompts are shared."""
    prefix_cache: bool = True
    image_cache_bytes: Positive = 256 * 2**20
    """Memory for images that are encoded already."""


class FetchSettings(_Section):
    """Images by http and https addresses, which are refused unless hosts are listed."""

    allowed_hosts: tuple[str, ...] = ()
    """Names such as `images.example.org`, or `*.example.org` for all below it."""
    max_bytes: Positive = 20 * 2**20
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0
    """The time for one image, including all of its redirects."""
    redirects: Annotated[int, Field(ge=0, le=3)] = 3


class ServeSettings(_Section):
    """All settings of the server.

    Attributes:
        model_name: The name of the model for clients; by default that of its directory.
        api_keys: If there are any, each request must send one as `Authorization: Bearer KEY`.
        allowed_hosts: Names by which the server may be reached. On loopback they default to those of loopback, against
            web pages that send requests to servers of their visitors; elsewhere all names are accepted.
        cors_origins: Web pages of other hosts that may use the API.
        log_prompts: Write texts of prompts and answers to the log.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    model_name: str | None = None
    api_keys: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    allowed_hosts: tuple[str, ...] | None = None
    cors_origins: tuple[str, ...] = ()
    log_prompts: bool = False
    shutdown_seconds: NotNegative = 30.0
    limits: RequestLimits = RequestLimits()
    engine: EngineSettings = EngineSettings()
    fetch: FetchSettings = FetchSettings()


def load_settings(path: Path | None = None, overrides: Sequence[str] = ()) -> ServeSettings:
    """The settings of a file, changed by `section.key=value` in YAML.

    Raises:
        ValueError: There is no such file, a key is unknown, or a value is wrong; each is named.
    """
    tree: dict[str, Any] = {} if path is None else _read(path)
    for override in overrides:
        _set(tree, override)
    try:
        return ServeSettings.model_validate(tree)
    except ValidationError as error:
        raise ValueError("; ".join(_explain(problem) for problem in error.errors(include_url=False))) from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"there is no settings file {path}")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict | None):
        raise ValueError(f"{path} holds {type(tree).__name__}, not settings")
    return tree or {}


def _set(tree: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    *sections, key = name.split(".")
    if not equals or not all([*sections, key]):
        raise ValueError(f"{override!r} sets nothing: write KEY=VALUE, for example limits.images=4")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ValueError(f"{override!r}: {section} is not a section")
    try:
        tree[key] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"the value of {override!r} is not YAML: {' '.join(str(error).split())}") from error


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"there is no setting {key}"
    return f"the setting {key}: {problem['msg']} (it is {problem['input']!r:.100})"
