"""Errors in OpenAI's form, each with the field that is to blame."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from owl2.serving.engine.errors import RequestError

logger = logging.getLogger(__name__)


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    error: ErrorBody


ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text}
    for status, text in {
        400: "The request is wrong; `param` names the field.",
        401: "No valid key.",
        404: "Another model.",
        413: "The body is too large.",
        415: "The body is not JSON.",
        421: "Another host is meant.",
        429: "Too many requests.",
        503: "The worker is down, or the server is shutting down.",
        504: "It took too long.",
    }.items()
}


def error_response(
    status: int, message: str, param: str | None = None, code: str | None = None, retry_after: float | None = None
) -> JSONResponse:
    headers = {} if retry_after is None else {"Retry-After": str(max(1, round(retry_after)))}
    return JSONResponse(error_object(status, message, param, code), status, headers)


def error_object(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def add_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected_error)


async def _request_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)
    return error_response(error.status, str(error), error.param, error.code, error.retry_after)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    param, message = explain_validation(error.errors()[0])
    return error_response(400, message, param, "invalid_request")


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    response = error_response(error.status_code, str(error.detail))
    response.headers.update(error.headers or {})
    return response


async def _unexpected_error(request: Request, error: Exception) -> JSONResponse:
    return error_response(500, "an internal error; the log of the server has more", code="internal_error")


def explain_validation(problem: Any) -> tuple[str | None, str]:
    """The field and what is wrong with it, from one problem that pydantic found."""
    place = [part for part in problem["loc"] if part != "body"]
    # Behind the position in a list, pydantic names the type that it tried.
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".") or None
    if problem["type"] == "json_invalid":
        return None, "the body is not valid JSON"
    if problem["type"] == "extra_forbidden":
        return param, f"the field {param!r} is not supported"
    text = problem["msg"].removeprefix("Value error, ")
    return param, f"{param}: {text}" if param else text
