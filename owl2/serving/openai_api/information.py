"""Routes with information about the model and the server."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from owl2 import __version__

from .errors import ERROR_RESPONSES, error_object
from .state import ServerState, state_of

router = APIRouter()


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """The one model of this server."""
    return {"object": "list", "data": [_model(state_of(request))]}


@router.get("/v1/models/{name:path}", responses=ERROR_RESPONSES)
async def model(name: str, request: Request) -> dict[str, Any]:
    """The model of this name."""
    state = state_of(request)
    state.check_model(name)
    return _model(state)


@router.get("/health", responses={503: ERROR_RESPONSES[503]})
async def health(request: Request) -> JSONResponse:
    """200 while requests are answered, 503 while the worker is down."""
    state = state_of(request)
    if state.engine.is_healthy:
        return JSONResponse({"status": "ok"})
    return JSONResponse(error_object(503, "the worker is down", code="worker_crashed"), 503)


@router.get("/version")
async def version() -> dict[str, str]:
    return {"version": __version__}


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Metrics in the text format of Prometheus."""
    return Response(state_of(request).metrics.render(), media_type=CONTENT_TYPE_LATEST)


def _model(state: ServerState) -> dict[str, Any]:
    return {
        "id": state.model_name,
        "object": "model",
        "created": state.created,
        "owned_by": "owl2",
        "max_model_len": state.engine.context,
        "modalities": ["text", "image"],
    }
