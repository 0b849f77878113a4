"""Health and metrics, asked in the process and over a real socket."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import socket
from collections.abc import Iterable
from multiprocessing.connection import Connection

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette

from dicomnode.web.app import create_app, serve
from dicomnode.web.metrics import Figure

JOBS = Figure(
    "medai_jobs",
    "Jobs by route and state.",
    {("CT tissue", "queued"): 2, ('odd "name"\n', "ready"): 7},
    labels=("route", "state"),
)
STORED = Figure("medai_instances_total", "Instances stored.", {(): 1234}, kind="counter")


class Client:
    """Asks an application in this process."""

    def __init__(self, app: Starlette) -> None:
        self.app = app

    def request(self, method: str, path: str, accept: str = "*/*") -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
                return await client.request(method, path, headers={"Accept": accept})

        return asyncio.run(ask())

    def get(self, path: str, accept: str = "*/*") -> httpx.Response:
        return self.request("GET", path, accept)


def figures() -> Iterable[Figure]:
    return [JOBS, STORED]


@pytest.fixture
def problems() -> list[str]:
    return []


@pytest.fixture
def client(problems: list[str]) -> Client:
    return Client(create_app(lambda: problems, figures))


def test_health_tells_problems_and_alerts_though_the_node_works(problems: list[str]) -> None:
    alert = {"rule": "drift", "subject": "ct-tissue@1.0.0", "state": "raised", "count": 1}
    client = Client(create_app(lambda: problems, figures, lambda: [alert]))
    assert client.get("/health").json() == {"status": "ready", "problems": [], "alerts": [alert]}
    assert client.get("/health/ready").status_code == 200
    problems.append("the disk is full")
    found = client.get("/health")
    assert found.status_code == 200
    assert found.json() == {
        "status": "not ready",
        "problems": ["the disk is full"],
        "alerts": [alert],
    }


@pytest.mark.feature("F18")
def test_live_says_that_the_process_runs_whatever_is_wrong(
    client: Client, problems: list[str]
) -> None:
    problems.append("The disk is full.")
    answer = client.get("/health/live")
    assert (answer.status_code, answer.json()) == (200, {"status": "live"})


@pytest.mark.feature("F18")
def test_ready_follows_the_problems(client: Client, problems: list[str]) -> None:
    assert client.get("/health/ready").status_code == 200
    problems.append("No receiver is running.")
    answer = client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["problems"] == ["No receiver is running."]
    assert answer.json()["status"] == 503
    problems.clear()
    assert client.get("/health/ready").json() == {"status": "ready"}


@pytest.mark.feature("F18")
def test_metrics_hold_the_figures_of_the_moment() -> None:
    count = iter(range(1, 3))
    client = Client(
        create_app(list, lambda: [JOBS, Figure("medai_scrapes", "Scrapes.", {(): next(count)})])
    )
    client.get("/metrics")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    samples = {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert samples == {
        ("medai_jobs", ("CT tissue", "queued")): 2,
        ("medai_jobs", ('odd "name"\n', "ready")): 7,
        ("medai_scrapes", ()): 2,
    }


def test_counters_are_typed_and_openmetrics_is_spoken(client: Client) -> None:
    answer = client.get("/metrics", accept="application/openmetrics-text")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert "# TYPE medai_instances counter" in answer.text
    assert "medai_instances_total 1234.0" in answer.text
    assert answer.text.endswith("# EOF\n")


@pytest.mark.feature("P41")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/health/../etc/passwd", 404), ("POST", "/metrics", 405)],
)
def test_a_wrong_request_gets_a_problem(
    client: Client, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert answer.json()["detail"]


@pytest.mark.feature("P41")
def test_a_failure_is_a_problem_without_its_cause() -> None:
    def fail() -> list[str]:
        raise RuntimeError("the password is 4711")

    client = Client(create_app(fail, figures))
    answer = client.get("/health/ready")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "4711" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/health/live", "/metrics", "/nothing"])
def test_every_answer_forbids_browsers_to_run_frame_or_keep_it(client: Client, path: str) -> None:
    headers = client.get(path).headers
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def run_server(ready: Connection, bind: str) -> None:
    serve(create_app(list, figures), socket.create_server((bind, 0)), ready.send)


@pytest.mark.feature("F18")
def test_a_server_process_answers_on_a_free_port_and_ends_on_sigterm() -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=run_server, args=(there, "127.0.0.1"))
    process.start()
    try:
        assert here.poll(60)
        port = here.recv()
        answer = httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=30)
        assert (answer.status_code, answer.json()) == (200, {"status": "ready"})
        assert "server" not in answer.headers
        assert "medai_jobs{" in httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
        process.terminate()
        process.join(60)
        assert process.exitcode in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.join()
        here.close()
        there.close()
