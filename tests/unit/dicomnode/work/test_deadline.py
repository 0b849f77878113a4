"""The time limit of a job: what is left of it, and where the work ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from config.errors import InferenceError
from dicomnode.series.decode import FrameRequest
from dicomnode.work.deadline import Deadline

UP = r"^m@1 was stopped: its time was up$"


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def passing(seconds: float) -> None:
        now[0] += seconds

    return passing


def test_what_is_left_shrinks_until_the_work_is_stopped(
    pass_time: Callable[[float], None],
) -> None:
    deadline = Deadline("m@1", 5.0)
    assert deadline.left() == 5.0
    pass_time(3.0)
    assert deadline.left() == 2.0
    pass_time(2.0)
    with pytest.raises(InferenceError, match=UP):
        deadline.left()


def test_without_a_limit_there_is_always_time(pass_time: Callable[[float], None]) -> None:
    deadline = Deadline("m@1", None)
    pass_time(1e9)
    assert deadline.left() is None


def test_decoding_is_stopped_between_two_frames(pass_time: Callable[[float], None]) -> None:
    def slow(requests: Sequence[FrameRequest]) -> Iterator[NDArray[Any]]:
        for _ in requests:
            pass_time(2.0)
            yield np.zeros((2, 2))

    frames = Deadline("m@1", 5.0).over(slow)([FrameRequest(Path("x"), n, False) for n in range(9)])
    assert len([next(frames), next(frames)]) == 2
    with pytest.raises(InferenceError, match=UP):
        next(frames)
