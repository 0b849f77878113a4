"""Errors as problem details (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response


class Refusal(HTTPException):
    """A request that is not done.

    Args:
        status: What it is answered with.
        detail: One plain sentence.
        problems: What is wrong, one sentence each, where that is more than one thing.
        headers: Of the answer.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        problems: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, headers)
        self.problems = problems


def problem(
    status: HTTPStatus,
    detail: str,
    problems: Sequence[str] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer that tells what is wrong."""
    body = {"type": "about:blank", "title": status.phrase, "status": status, "detail": detail}
    more = {"problems": list(problems)} if problems else {}
    return JSONResponse(
        {**body, **more},
        status_code=status,
        headers=headers,
        media_type="application/problem+json",
    )


def refused(request: Request, error: Exception) -> Response:
    """The handler of what the application refuses, `Refusal` or Starlette's own."""
    if isinstance(error, Refusal):
        status = HTTPStatus(error.status_code)
        return problem(status, error.detail, error.problems, error.headers)
    status = HTTPStatus(error.status_code if isinstance(error, HTTPException) else 500)
    headers = error.headers if isinstance(error, HTTPException) else None
    return problem(status, status.description or status.phrase, headers=headers)
