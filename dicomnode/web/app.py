"""Health and metrics over HTTP.

``/health/live`` says that the process runs, ``/health/ready`` whether the node can do its work and
what keeps it from it, ``/health`` both and the alerts that are raised, ``/metrics`` the node's
numbers for Prometheus. Nothing of that names a patient or an instance. Errors are problem details
(RFC 9457).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicomnode.web.metrics import Exposition, Figures
from dicomnode.web.problem import problem, refused

Problems = Callable[[], Sequence[str]]
Alerts = Callable[[], Sequence[Mapping[str, Any]]]

# Answers are data for machines: no browser should run, frame, guess or keep them.
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_MOST_REQUESTS = 64


def create_app(
    problems: Problems,
    figures: Figures,
    alerts: Alerts = lambda: (),
    api: Sequence[BaseRoute] = (),
) -> Starlette:
    """The application.

    Args:
        problems: What keeps the node from its work, one plain sentence each, empty when it is
            ready. Called in a worker thread at each request.
        figures: The node's numbers, called in a worker thread at each scrape.
        alerts: What is wrong though the node works, as plain values; called like `problems`.
        api: What is served beside, to those who bear a token.
    """
    exposition = Exposition(figures)

    def live(request: Request) -> Response:
        return JSONResponse({"status": "live"})

    def health(request: Request) -> Response:
        found = list(problems())
        status = "not ready" if found else "ready"
        return JSONResponse({"status": status, "problems": found, "alerts": list(alerts())})

    def ready(request: Request) -> Response:
        found = list(problems())
        if found:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "The node is not ready.", found)
        return JSONResponse({"status": "ready"})

    def metrics(request: Request) -> Response:
        text, content_type = exposition.render(request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type})

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/health/live", live),
            Route("/health/ready", ready),
            Route("/metrics", metrics),
            *api,
        ],
        middleware=[Middleware(_SecurityHeaders)],
        exception_handlers={HTTPException: refused, Exception: _failed},
    )


def serve(app: ASGIApp, listening: socket.socket, on_ready: Callable[[int], None]) -> None:
    """Serve until SIGTERM or SIGINT; open requests are answered first.

    Args:
        app: From `create_app`.
        listening: Socket that listens.
        on_ready: Called once with the port that answers.
    """
    config = uvicorn.Config(
        app,
        log_config=None,  # the process's own logging, with its redaction
        access_log=False,
        server_header=False,
        lifespan="off",
        limit_concurrency=_MOST_REQUESTS,
        timeout_graceful_shutdown=5,
    )
    with listening:
        _Server(config, lambda: on_ready(listening.getsockname()[1])).run(sockets=[listening])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_started()


class _SecurityHeaders:
    """Adds the headers to every answer, errors too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self.app(scope, receive, with_headers)


def _failed(request: Request, error: Exception) -> Response:
    # Starlette raises the error again once this is sent, and the server logs it.
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    response = problem(status, "The node could not answer; its log says why.")
    response.headers.update(_HEADERS)  # this answer passes no middleware
    return response
