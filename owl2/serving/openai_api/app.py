"""The application: routes, checks, and the life of the engine."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from owl2 import __version__
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor
from owl2.serving.engine.admission import AdmissionLimits
from owl2.serving.engine.engine import Engine
from owl2.serving.engine.grammar import Grammars
from owl2.serving.engine.prompts import PromptBuilder
from owl2.serving.engine.worker import WorkerOptions
from owl2.serving.fetching import Fetcher
from owl2.serving.page import routes as page
from owl2.serving.settings import ServeSettings

from . import attention, chat, completions, information, score, tokens
from .errors import add_error_handlers
from .metrics import Metrics
from .security import Gate
from .state import ServerState

logger = logging.getLogger(__name__)

_TOKENS_OF_AN_ANSWER = 1024
"""The default room of the cache, in tokens of prompt and answer for each of the answers written at the same time."""


def create_app(
    model: Owl2ForConditionalGeneration, processor: Owl2Processor, settings: ServeSettings, model_name: str
) -> FastAPI:
    """A server for one model; the engine starts and stops with it."""
    metrics = Metrics()
    engine = _engine(model, processor, settings, metrics)
    metrics.watch(engine)
    vocab_size = model.config.text_config.vocab_size
    prompts = PromptBuilder(processor, vocab_size)
    grammars = Grammars(processor.tokenizer, vocab_size, engine.worker.end_tokens)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await engine.start()
        logger.info("%s answers at http://%s:%d (the page) and /v1 (the API)", model_name, settings.host, settings.port)
        yield
        logger.info("shutting down: answers in flight have %g s", settings.shutdown_seconds)
        await engine.stop(settings.shutdown_seconds)

    # The pages of /docs and /redoc load scripts from elsewhere.
    app = FastAPI(title="owl2", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.server = ServerState(engine, prompts, settings, model_name, metrics, Fetcher(settings.fetch), grammars)
    for routes in (chat, completions, score, tokens, attention, information, page):
        app.include_router(routes.router)
    add_error_handlers(app)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(Gate, settings=settings, metrics=metrics)
    _describe_errors(app)
    return app


def _engine(
    model: Owl2ForConditionalGeneration, processor: Owl2Processor, settings: ServeSettings, metrics: Metrics
) -> Engine:
    own, limits = settings.engine, settings.limits
    worker = WorkerOptions(
        max_requests=own.max_requests,
        max_batch_tokens=max(own.max_batch_tokens, own.max_requests),
        cache_tokens=_cache_tokens(model, settings),
        page_tokens=own.page_tokens,
        shares_prefixes=own.prefix_cache,
    )
    admission = AdmissionLimits(
        running=own.max_requests,
        queued=limits.queued,
        queued_per_client=limits.queued_per_client,
        queue_seconds=limits.queue_seconds,
        rate=limits.requests_per_minute,
    )
    return Engine(
        model, processor, worker, admission, own.image_cache_bytes, limits.answer_seconds, observe=metrics.observe
    )


def _cache_tokens(model: Owl2ForConditionalGeneration, settings: ServeSettings) -> int | None:
    own = settings.engine
    if own.cache_tokens is not None or model.device.type == "cuda":
        return own.cache_tokens
    context = model.config.text_config.max_position_embeddings
    return max(context + own.page_tokens, own.max_requests * min(context, _TOKENS_OF_AN_ANSWER))


def _describe_errors(app: FastAPI) -> None:
    """Takes the framework's own description of refused requests out of the OpenAPI document: here they are 400."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        document = original()
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document.get("components", {}).get("schemas", {}).pop(name, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
