"""Feedback over HTTP, asked of the running web process."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests import factories
from tests.harness import NodeUnderTest
from tests.integration.looks import assert_chain_is_intact, send_all

SETTINGS = """\
[[routes]]
name = "CT tissue"
when = { Modality = "CT" }
model = "ct-tissue"

[[web.tokens]]
name = "reading room"
secret = { file = "viewer.token" }
may = ["feedback"]

[[web.tokens]]
name = "idle"
secret = { env = "IDLE_TOKEN" }
may = []
"""
VIEWER, IDLE = secrets.token_hex(32), secrets.token_hex(32)
ROOM = "/api/v1/jobs/1/feedback"
Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    """A node that has answered on one CT series, as job 1."""
    folder = tmp_path_factory.mktemp("api")
    made = NodeUnderTest(folder / "node", SETTINGS)
    (made.folder / "viewer.token").write_text(f"{VIEWER}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IDLE_TOKEN", IDLE)
        with made:
            images = factories.ct_series(12, rows=32, columns=32)
            send_all(made, factories.write(images, folder / "images"))
            made.wait_until(lambda: made.rows("SELECT * FROM run"), "an answer")
            yield made


@pytest.fixture
def ask(node: NodeUnderTest) -> Iterator[Ask]:
    """Ask the node over HTTP, with a token or without, as a proxy would for an address."""
    web = node.state.web
    assert web is not None
    with httpx.Client(base_url=f"http://{web[0]}:{web[1]}", timeout=30) as client:

        def request(
            method: str, path: str = ROOM, token: str | None = VIEWER, **more: Any
        ) -> httpx.Response:
            headers = {"X-Forwarded-For": more.pop("address", "203.0.113.1")}
            if token is not None:
                headers["Authorization"] = f"Bearer {token}"
            return client.request(method, path, headers=headers | more.pop("headers", {}), **more)

        yield request


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem document of an answer (RFC 9457)."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["status"] == status
    assert found["title"]
    assert found["detail"]
    return found


def noted(node: NodeUnderTest) -> int:
    return len(node.rows("SELECT * FROM feedback"))


@pytest.mark.feature("P46", "F15")
def test_what_is_said_is_noted_audited_and_read_again(node: NodeUnderTest, ask: Ask) -> None:
    before = noted(node)
    said = ask("POST", json={"verdict": "accept"})
    assert said.status_code == 201
    assert said.json() == {
        "job": 1,
        "model": "ct-tissue@1.0.0",
        "verdict": "accept",
        "finding": "",
        "said_by": "radiologist",
    }
    told = ask("GET").json()
    assert (told["job"], told["model"]) == (1, "ct-tissue@1.0.0")
    names = [finding["name"] for finding in told["findings"]]
    assert len(names) >= 2
    ask("POST", json={"verdict": "reject", "finding": names[0], "by": "resident"})
    latest = ask("GET").json()["feedback"][before:]
    assert [(row["verdict"], row["finding"], row["source"], row["said_by"]) for row in latest] == [
        ("accept", "", "api", "radiologist"),
        ("reject", names[0], "api", "resident"),
    ]
    events = node.rows("SELECT * FROM audit_event WHERE action LIKE 'feedback.%' ORDER BY seq")
    assert [(row["action"], row["object"], row["actor"]) for row in events[before:]] == [
        ("feedback.accept", "job:1", "token:reading room"),
        ("feedback.reject", "job:1", "token:reading room"),
    ]
    (figures,) = node.json("models", "figures", "ct-tissue")
    assert (figures["counts"]["accept"], figures["counts"]["reject"]) == (1, 1)
    assert_chain_is_intact(node)


@pytest.mark.feature("P46")
def test_a_viewer_names_job_and_finding_by_the_uids_that_it_has(
    node: NodeUnderTest, ask: Ask
) -> None:
    uids = node.rows("SELECT sop_instance_uid FROM result WHERE job_id = 1")
    paths = [f"/api/v1/jobs/{row['sop_instance_uid']}/feedback" for row in uids]
    assert len(paths) == 2
    for path in paths:
        finding = ask("GET", path).json()["findings"][-1]
        body = {"verdict": "correct", "finding": finding["tracking_uid"]}
        assert ask("POST", path, json=body).json()["finding"] == finding["name"]


@pytest.mark.feature("P41")
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("headers", "challenge"),
    [
        ({}, 'Bearer realm="medai-node"'),
        ({"Authorization": "Basic bWVkYWk6bWVkYWk="}, 'Bearer realm="medai-node"'),
        ({"Authorization": "Bearer"}, 'Bearer realm="medai-node", error="invalid_token"'),
        (
            {"Authorization": f"Bearer {VIEWER[:-1]}"},
            'Bearer realm="medai-node", error="invalid_token"',
        ),
        (
            {"Authorization": f"Bearer {VIEWER}\xe9".encode("latin-1")},
            'Bearer realm="medai-node", error="invalid_token"',
        ),
    ],
    ids=["none", "another scheme", "empty", "a shorter one", "one with more"],
)
def test_who_bears_no_token_of_the_node_is_not_heard(
    node: NodeUnderTest, ask: Ask, method: str, headers: dict[str, Any], challenge: str
) -> None:
    before = noted(node)
    answer = ask(method, token=None, headers=headers, address="203.0.113.2")
    problem(answer, 401)
    assert answer.headers["www-authenticate"] == challenge
    assert noted(node) == before


@pytest.mark.feature("P41")
def test_a_token_without_the_right_is_refused(node: NodeUnderTest, ask: Ask) -> None:
    before = noted(node)
    answer = ask("POST", token=IDLE, json={"verdict": "accept"})
    assert "'feedback'" in problem(answer, 403)["detail"]
    assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
    assert noted(node) == before


@pytest.mark.feature("P41")
@pytest.mark.parametrize(
    "job", ["99", "0", "9" * 18, "9" * 400, "1.2.826.0.1", "..%2f1", "job", "%00", "-1"]
)
def test_an_unknown_job_is_said_to_be_unknown(ask: Ask, job: str) -> None:
    problem(ask("GET", f"/api/v1/jobs/{job}/feedback"), 404)
    problem(ask("POST", f"/api/v1/jobs/{job}/feedback", json={"verdict": "accept"}), 404)


def test_an_unknown_finding_is_answered_with_those_there_are(ask: Ask) -> None:
    found = problem(ask("POST", json={"verdict": "accept", "finding": "unheard of"}), 404)
    (name, *_) = [finding["name"] for finding in ask("GET").json()["findings"]]
    assert found["detail"].startswith("Job 1 has no such finding; its findings: ")
    assert name in found["detail"]


@pytest.mark.feature("P41")
@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b'"accept"', "body"),
        (b"\xff", "body"),
        (b"[" * 4000, "body"),
        (b"{}", "verdict"),
        (b'{"verdict": "maybe"}', "verdict"),
        (b'{"verdict": true}', "verdict"),
        (b'{"verdict": "accept", "finding": ""}', "finding"),
        (b'{"verdict": "accept", "finding": 7}', "finding"),
        (b'{"verdict": "accept", "by": "Dr. Who"}', "by"),
        (b'{"verdict": "accept", "by": "resident\\n"}', "by"),
        (b'{"verdict": "accept", "note": "see the patient"}', "note"),
    ],
)
def test_a_body_that_says_something_else_is_refused_with_the_place(
    node: NodeUnderTest, ask: Ask, body: bytes, place: str
) -> None:
    before = noted(node)
    answer = ask("POST", content=body, headers={"Content-Type": "application/json"})
    found = problem(answer, 422)
    assert [each.partition(":")[0] for each in found["problems"]] == [place]
    assert "patient" not in answer.text
    assert noted(node) == before


@pytest.mark.feature("P41")
@pytest.mark.parametrize("announced", [True, False])
def test_a_body_of_more_than_its_bound_is_refused(ask: Ask, announced: bool) -> None:
    body = b'{"verdict": "accept", "finding": "' + b"x" * 100_000 + b'"}'
    content = body if announced else (body[at : at + 1000] for at in range(0, len(body), 1000))
    problem(ask("POST", content=content, headers={"Content-Type": "application/json"}), 413)


def test_another_kind_of_body_and_other_methods_are_refused(ask: Ask) -> None:
    problem(ask("POST", data={"verdict": "accept"}), 415)
    answer = ask("PUT", json={"verdict": "accept"})
    problem(answer, 405)
    assert {"GET", "POST"} <= set(answer.headers["allow"].split(", "))


@pytest.mark.feature("P41")
def test_after_many_wrong_tokens_an_address_is_not_heard_and_others_are(
    node: NodeUnderTest, ask: Ask
) -> None:
    guesser = {"address": "203.0.113.3"}
    for _ in range(10):
        problem(ask("GET", token=secrets.token_hex(32), **guesser), 401)
    for token in (secrets.token_hex(32), VIEWER):
        answer = ask("GET", token=token, **guesser)
        problem(answer, 429)
        assert 0 < int(answer.headers["retry-after"]) <= 60
    assert ask("GET").status_code == 200
    assert node.get("/health/live")[0] == 200


def test_no_secret_stands_in_the_log_or_the_settings_that_are_shown(node: NodeUnderTest) -> None:
    shown = node.command("config", "show").stdout
    assert "viewer.token" in shown
    log = node.log.read_text()
    assert "token.refused" in log
    assert not [secret for secret in (VIEWER, IDLE) if secret in log + shown]
