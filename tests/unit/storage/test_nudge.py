"""A nudge wakes who waits, and a lost one costs nothing."""

from __future__ import annotations

import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.errors import StorageError
from storage.nudge import Nudged, nudge


@pytest.fixture
def waiter(tmp_path: Path) -> Iterator[Nudged]:
    nudged = Nudged(tmp_path, "worker")
    yield nudged
    nudged.close()


def test_a_nudge_wakes_a_waiter_early(tmp_path: Path, waiter: Nudged) -> None:
    woken: list[tuple[bool, float]] = []
    start = time.monotonic()

    def wait() -> None:
        woken.append((waiter.wait(60), time.monotonic() - start))

    thread = threading.Thread(target=wait)
    thread.start()
    nudge(tmp_path, "worker")
    thread.join(30)
    ((answer, seconds),) = woken
    assert answer
    assert seconds < 30


def test_many_nudges_are_taken_at_once(tmp_path: Path, waiter: Nudged) -> None:
    for _ in range(5000):  # far more than the socket's queue holds: none of them waits
        nudge(tmp_path, "worker")
    assert waiter.wait(60)
    assert not waiter.wait(0)


def test_a_nudge_to_nobody_another_role_or_another_folder_is_lost_quietly(
    tmp_path: Path, waiter: Nudged
) -> None:
    nudge(tmp_path, "nobody")
    nudge(tmp_path / "elsewhere", "worker")
    assert not waiter.wait(0)


def test_a_folder_is_the_same_by_any_of_its_names(
    tmp_path: Path, waiter: Nudged, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    nudge(tmp_path / "link", "worker")
    assert waiter.wait(60)
    monkeypatch.chdir(tmp_path.parent)
    nudge(Path(tmp_path.name), "worker")
    assert waiter.wait(60)


def test_the_folder_may_have_any_length(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 200) / ("e" * 200)
    nudged = Nudged(folder, "worker")
    nudge(folder, "worker")
    assert nudged.wait(60)
    nudged.close()


def test_a_second_waiter_is_refused_in_plain_words_until_the_first_has_gone(
    tmp_path: Path, waiter: Nudged
) -> None:
    with pytest.raises(StorageError, match="already waits as the worker"):
        Nudged(tmp_path, "worker")
    waiter.close()
    Nudged(tmp_path, "worker").close()


def test_what_a_killed_process_left_is_no_hindrance(tmp_path: Path, waiter: Nudged) -> None:
    waiter.close()
    assert (tmp_path / "run" / "worker").is_socket()
    nudge(tmp_path, "worker")  # to nobody
    again = Nudged(tmp_path, "worker")
    nudge(tmp_path, "worker")
    assert again.wait(60)
    again.close()


@pytest.mark.feature("P25")
def test_no_other_user_may_wake_a_waiter_or_take_its_place(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o777)
    (tmp_path / "run").chmod(0o777)
    nudged = Nudged(tmp_path, "worker")
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
    nudged.close()
