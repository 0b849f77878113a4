"""``/api/v1/jobs/{job}/feedback``: what radiologists say of an answer, said and read over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from config.errors import StorageError
from dicomnode.web.problem import Refusal
from dicomnode.web.tokens import Bearer, Bearers
from dicomnode.work import spoken
from dicomnode.work.spoken import NoAnswerError, UnknownAnswerError
from storage.db import Ledger

PATH = "/api/v1/jobs/{job}/feedback"
MOST_BYTES = 4096
BODY_SECONDS = 10.0
_LONGEST_KEY = 60


class _Word(BaseModel):
    """What is posted: a verdict on a finding or the whole answer, and no more."""

    model_config = ConfigDict(extra="forbid", strict=True)

    verdict: Literal["accept", "reject", "correct"]
    finding: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    by: Annotated[str, Field(pattern=f"^{spoken.ROLE}$")] = "radiologist"


def feedback_routes(bearers: Bearers, ledger: Ledger) -> list[Route]:
    """The routes of feedback.

    Args:
        bearers: Who may use them.
        ledger: The database.
    """

    def note(reference: str, word: _Word, bearer: Bearer) -> dict[str, Any]:
        with _as_refusals():
            job = spoken.answered(reference)
            said = spoken.say(
                ledger,
                job,
                word.verdict,
                finding=word.finding,
                by=word.by,
                source="api",
                actor=f"token:{bearer.name}",
            )
        return {
            "job": job.id,
            "model": job.model,
            "verdict": said.verdict,
            "finding": said.finding,
            "said_by": said.said_by,
        }

    def tell(reference: str) -> dict[str, Any]:
        with _as_refusals():
            return spoken.told(spoken.answered(reference))

    async def feedback(request: Request) -> Response:
        bearer = bearers.allow(request, "feedback")
        reference = request.path_params["job"]
        if request.method != "POST":
            return JSONResponse(await run_in_threadpool(tell, reference))
        word = _parsed(await _body(request))
        noted = await run_in_threadpool(note, reference, word, bearer)
        return JSONResponse(noted, status_code=HTTPStatus.CREATED)

    return [Route(PATH, feedback, methods=["GET", "POST"])]


@contextmanager
def _as_refusals() -> Iterator[None]:
    try:
        yield
    except UnknownAnswerError as error:
        raise Refusal(HTTPStatus.NOT_FOUND, _sentence(error)) from error
    except NoAnswerError as error:
        raise Refusal(HTTPStatus.CONFLICT, _sentence(error)) from error
    except StorageError as error:
        why = "The database cannot be used now; /health/ready says why."
        later = {"Retry-After": "10"}
        raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, why, headers=later) from error


def _sentence(error: Exception) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


async def _body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body must be application/json.")
    content = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                content += chunk
                if len(content) > MOST_BYTES:
                    why = f"The body may have {MOST_BYTES} bytes."
                    raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, why)
    except TimeoutError as error:
        raise Refusal(HTTPStatus.REQUEST_TIMEOUT, "The body did not come.") from error
    return bytes(content)


def _parsed(content: bytes) -> _Word:
    try:
        return _Word.model_validate_json(content)
    except ValidationError as error:
        # Only where and what is wrong is said: what stands there may be anything.
        found = [f"{_place(each['loc'])}: {each['msg']}" for each in error.errors()]
        raise Refusal(
            HTTPStatus.UNPROCESSABLE_ENTITY, "The body is not as it should be.", problems=found
        ) from error


def _place(loc: tuple[str | int, ...]) -> str:
    return ".".join(map(str, loc))[:_LONGEST_KEY] or "body"
