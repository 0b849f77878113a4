"""What sources answer when they are asked how many instances there are, the hostile ones too."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pydicom.dataset import Dataset

from config.errors import PeerError
from dicomnode.net.calling import Bounds
from dicomnode.net.find import Counts, ask_counts
from tests.sources import Answer, Matches, counts, match, source

STUDY = "1.2.3"


@pytest.mark.feature("P06")
def test_a_source_says_how_many_there_are() -> None:
    with source(counts(STUDY, "203", {"1.2.3.1": 200, "1.2.3.2": " 3 "})) as peer:
        assert ask_counts(peer, STUDY) == Counts(203, {"1.2.3.1": 200, "1.2.3.2": 3})


NONSENSE: tuple[tuple[Dataset, ...], ...] = (
    (),
    (match(STUDY, "many"), match(STUDY, "-3", "1.2.3.1")),
    (match(STUDY, "12.5"), match(STUDY, "1" * 12, "1.2.3.1")),
    (match(STUDY, 5), match(STUDY, 6), match(STUDY, 5, "1.2.3.1"), match(STUDY, 6, "1.2.3.1")),
    (match("1.9", 5), match("1.9", 5, "1.2.3.1"), match(STUDY, 5, "no UID")),
    (match("", ""), match("", "", "1.2.3.1")),
)


def test_what_makes_no_sense_says_nothing() -> None:
    said: list[Dataset] = []

    def answer(level: str, event: Any) -> Matches:
        for each in said:
            if ("SeriesInstanceUID" in each) == (level == "SERIES"):
                yield 0xFF00, each

    with source(answer) as peer:
        for said[:] in NONSENSE:
            assert ask_counts(peer, STUDY) == Counts(None, {})


OVER = threading.Event()


def endless(level: str, event: Any) -> Matches:
    while not OVER.is_set():
        yield 0xFF00, match(STUDY, 1)


def silent(level: str, event: Any) -> Matches:
    OVER.wait(20)
    yield 0x0000, None


def huge(level: str, event: Any) -> Matches:
    answer = match(STUDY, 1)
    answer.StudyComments = "x" * (3 << 20)
    yield 0xFF00, answer


def refusing(level: str, event: Any) -> Matches:
    yield 0xA700, None


def aborting(level: str, event: Any) -> Matches:
    event.assoc.abort()
    yield 0x0000, None


@pytest.fixture
def _over() -> Iterator[None]:
    OVER.clear()
    yield
    OVER.set()


@pytest.mark.usefixtures("_over")
@pytest.mark.parametrize(
    ("answer", "seconds", "why"),
    [
        (endless, 60, "too many matches"),
        (silent, 0.5, "gave no answer in time"),
        (huge, 60, "ended the association"),
        (refusing, 60, "0xA700"),
        (aborting, 60, "ended the association"),
    ],
)
def test_what_a_source_may_cost_is_bounded(
    monkeypatch: pytest.MonkeyPatch, answer: Answer, seconds: float, why: str
) -> None:
    monkeypatch.setattr("dicomnode.net.find.MAX_MATCHES", 20)
    began = time.monotonic()
    with source(answer) as peer:
        with pytest.raises(PeerError, match=why):
            ask_counts(peer, STUDY, Bounds(seconds, 1 << 20))
        OVER.set()
    assert time.monotonic() - began < 30
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def test_a_source_that_is_not_there_is_told() -> None:
    with source(counts(STUDY, 1, {})) as peer:
        pass
    with pytest.raises(PeerError, match="cannot be reached"):
        ask_counts(peer, STUDY)
