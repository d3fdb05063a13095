"""Checks of every request before a route sees it, headers of every answer for browsers, and the lines of the log."""

import hmac
import ipaddress
import logging
import time
from collections.abc import Iterable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from owl2.serving.page.routes import PREFIX
from owl2.serving.settings import ServeSettings

from .errors import error_response
from .metrics import Metrics

logger = logging.getLogger(__name__)

OPEN_PATHS = ("/health", "/version", "/")
"""Paths without a key: a load balancer has none, and a browser shows the page before it can ask for one."""

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'"),
)


class Gate:
    """Checks host, key, type and size of a request.

    A body that states too large a size is refused before it is read, and any other as soon as it grows too large.
    Each request is counted and gets a line in the log, which holds nothing of its contents.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics) -> None:
        self.app = app
        self.settings = settings
        self.metrics = metrics
        self.hosts = allowed_hosts(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        send = self._recorded(scope, _with_headers(send))
        refusal = self._refusal(scope, dict(scope["headers"]))
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        await self._limited(scope, receive, send)

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application on a body that ends with an error where it grows too large."""
        limit = self.settings.limits.body_bytes
        read = 0

        async def counted_receive() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise _TooLarge
            return message

        async def corrected_send(message: Message) -> None:
            # Whoever parses bodies takes any error there for one of parsing, and answers so.
            if read <= limit:
                await send(message)
            elif message["type"] == "http.response.start":
                await _too_large(limit)(scope, receive, send)

        await self.app(scope, counted_receive, corrected_send)

    def _recorded(self, scope: Scope, send: Send) -> Send:
        began = time.perf_counter()

        async def recorded_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")  # what was asked for may be anything
                self.metrics.requests.labels(route, message["status"]).inc()
                seconds = time.perf_counter() - began
                logger.info("%s %s %d after %.3f s", scope["method"], route, message["status"], seconds)
            await send(message)

        return recorded_send

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> Any:
        host = headers.get(b"host", b"").decode("latin-1")
        if self.hosts is not None and _name_of(host) not in self.hosts:
            return error_response(421, f"this server is not reached by the name {host!r}", code="wrong_host")
        if self.settings.api_keys and not _is_open(scope["path"]) and not self._has_key(headers):
            return error_response(401, "a valid key is needed: Authorization: Bearer KEY", code="invalid_api_key")
        if scope["method"] == "POST":
            kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
            if kind != b"application/json":
                return error_response(415, "the body must be JSON: Content-Type: application/json", code="wrong_type")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.settings.limits.body_bytes:
            return _too_large(self.settings.limits.body_bytes)
        return None

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        given = headers.get(b"authorization", b"")
        # All are compared, each in constant time: the answer's time says nothing about the keys.
        return any([hmac.compare_digest(given, b"Bearer " + key.encode()) for key in self.settings.api_keys])


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(PREFIX)


class _TooLarge(Exception):
    pass


def allowed_hosts(settings: ServeSettings) -> set[str] | None:
    """The accepted names in the `Host` header; None for all."""
    if settings.allowed_hosts is not None:
        return {name.lower() for name in settings.allowed_hosts}
    try:
        is_loopback = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        is_loopback = settings.host == "localhost"
    return {"localhost", "127.0.0.1", "::1", settings.host.lower()} if is_loopback else None


def _name_of(host: str) -> str:
    """The name in a `Host` header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _too_large(limit: int) -> Any:
    return error_response(413, f"the body is larger than {limit} bytes", code="body_too_large")


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            own: Iterable[tuple[bytes, bytes]] = message.get("headers", ())
            message = {**message, "headers": [*own, *SECURITY_HEADERS]}
        await send(message)

    return send_with_headers
