"""Bearers of tokens, and feedback where the node cannot take it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request

from config.web import TokenSettings
from dicomnode.web.app import create_app
from dicomnode.web.feedback import feedback_routes
from dicomnode.web.problem import Refusal
from dicomnode.web.tokens import MOST_FAILURES, WINDOW_SECONDS, Bearer, Bearers
from storage.db import FILE_NAME, open_ledger
from tests.storage_rows import some_jobs

MINE, OTHER = "a" * 32, "b" * 32


def tokens(folder: Path, **secrets: str | None) -> list[TokenSettings]:
    """The settings of tokens by name; the file of None is gone."""
    made = []
    for name, secret in secrets.items():
        file = folder / name
        if secret is not None:
            file.write_text(secret)
        made.append(TokenSettings(name=name, secret={"file": file}, may=("feedback",)))
    return made


def asking(secret: str, host: str) -> Request:
    header = (b"authorization", f"bearer {secret}".encode())
    return Request({"type": "http", "headers": [header], "client": (host, 4711)})


class Door:
    """Bearers beside a clock that is turned by hand."""

    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.bearers = Bearers(tokens(folder, viewer=MINE), lambda: self.now)

    def ask(self, secret: str = MINE, host: str = "10.0.0.1") -> int | Bearer:
        """Who may, or the status that one who may not is answered with."""
        try:
            return self.bearers.allow(asking(secret, host), "feedback")
        except Refusal as refusal:
            return refusal.status_code


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path)


@pytest.mark.feature("P41")
def test_failures_of_an_address_are_forgotten_after_their_window(door: Door) -> None:
    assert {door.ask(OTHER) for _ in range(MOST_FAILURES)} == {401}
    assert door.ask() == 429
    door.now += WINDOW_SECONDS - 0.1
    assert door.ask() == 429
    door.now += 0.2
    assert isinstance(door.ask(), Bearer)
    assert door.ask(OTHER) == 401


def test_failures_now_and_then_shut_nobody_out(door: Door) -> None:
    for _ in range(5 * MOST_FAILURES):
        assert door.ask(OTHER) == 401
        door.now += WINDOW_SECONDS / (MOST_FAILURES - 1)
    assert isinstance(door.ask(), Bearer)


@pytest.mark.parametrize(
    ("hosts", "status"),
    [
        (lambda number: f"10.0.0.{number + 1}", 401),
        (lambda number: f"2001:db8:0:0:{number}::1", 429),
        (lambda number: f"2001:db8:0:{number}::1", 401),
        (lambda number: f"no address {number}", 429),
    ],
    ids=["IPv4", "one IPv6 network", "IPv6 networks", "no addresses"],
)
def test_failures_count_by_address_and_in_ipv6_by_network(
    door: Door, hosts: Callable[[int], str], status: int
) -> None:
    for number in range(MOST_FAILURES):
        assert door.ask(OTHER, hosts(number)) == 401
    assert door.ask(OTHER, hosts(MOST_FAILURES)) == status


def test_addresses_that_failed_longest_ago_are_forgotten_first(door: Door) -> None:
    for _ in range(MOST_FAILURES):
        door.ask(OTHER, "10.0.0.1")
    for number in range(1023):
        door.ask(OTHER, f"10.1.{number // 250}.{number % 250}")
    assert door.ask(OTHER, "10.0.0.1") == 429
    door.ask(OTHER, "10.2.0.0")
    assert door.ask(OTHER, "10.0.0.1") == 401


def test_a_secret_that_went_shuts_out_its_bearer_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bearers = Bearers(tokens(tmp_path, gone=None, viewer=MINE))
    assert bearers.allow(asking(MINE, "10.0.0.1"), "feedback").name == "viewer"
    assert "token.unreadable" in "".join(capfd.readouterr())


def ask(app: Starlette, method: str) -> httpx.Response:
    """What an application in this process answers about job 1."""

    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
            return await client.request(
                method,
                "/api/v1/jobs/1/feedback",
                headers={"Authorization": f"Bearer {MINE}"},
                json={"verdict": "accept"},
            )

    return asyncio.run(request())


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_tokens_there_is_no_api(method: str) -> None:
    assert ask(create_app(list, list), method).status_code == 404


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_job_without_an_answer_and_a_database_that_is_gone_are_said_plainly(
    tmp_path: Path, method: str
) -> None:
    ledger = open_ledger(tmp_path / "node")
    some_jobs(ledger, 1)
    bearers = Bearers(tokens(tmp_path, viewer=MINE))
    app = create_app(list, list, api=feedback_routes(bearers, ledger))
    answer = ask(app, method)
    assert answer.status_code == 409
    assert answer.json()["detail"] == "Job 1 is queued and has no answer to speak of."
    ledger.close()
    (tmp_path / "node" / FILE_NAME).unlink()
    answer = ask(app, method)
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "10"
