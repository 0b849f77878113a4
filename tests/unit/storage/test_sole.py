"""Work that one of several may do at a time."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path

from storage.sole import sole
from tests.storage_rows import in_processes


def try_it(data_dir: Path, name: str, count: int, out: Connection) -> None:
    with sole(data_dir, "deliver PACS 1") as alone:
        out.send(alone)


def test_who_comes_second_leaves_it_to_the_first(tmp_path: Path) -> None:
    with sole(tmp_path, "deliver PACS 1") as first, sole(tmp_path, "deliver PACS 1") as second:
        assert (first, second) == (True, False)
        with sole(tmp_path, "deliver PACS 2") as other:
            assert other
        assert in_processes(try_it, tmp_path, 1) == [False]
    assert in_processes(try_it, tmp_path, 1) == [True]
