"""No change to what the chain has noted passes verification."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from storage import audit, audit_check
from storage.audit import COLUMNS, GENESIS, HEAD_FILE, event_hash
from storage.db import FILE_NAME, Ledger, open_ledger

COUNT = 10
TEXTS = [name for name in COLUMNS if name not in ("seq", "version")]

seqs = st.integers(1, COUNT)
values = st.one_of(
    st.integers(-5, 2**62), st.text(max_size=70), st.binary(max_size=70), st.floats(allow_nan=False)
)
edit = st.tuples(st.just("edit"), seqs, st.sampled_from(COLUMNS), values)
remove = st.tuples(st.just("remove"), seqs, st.booleans())
swap = st.tuples(st.just("swap"), seqs, seqs)
insert = st.tuples(st.just("insert"), st.integers(-1, COUNT), st.sampled_from(TEXTS[:6]), st.text())
rehash = st.tuples(st.just("rehash"), seqs, st.booleans())
cut = st.tuples(st.just("cut"), seqs)
tampering = st.lists(st.one_of(edit, remove, swap, insert, rehash, cut), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ledger, Path]]:
    ledger = open_ledger(tmp_path_factory.mktemp("ledger"))
    for number in range(COUNT):
        with ledger.transaction() as change:
            change.audit("test.event", object=f"row:{number}", detail={"n": number})
    ledger.database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    ledger.close()
    kept = tmp_path_factory.mktemp("kept")
    for name in (FILE_NAME, HEAD_FILE):
        shutil.copy(ledger.data_dir / name, kept / name)
    yield ledger, kept
    ledger.close()


def rows_of(raw: sqlite3.Connection) -> list[tuple[Any, ...]]:
    names = ", ".join(COLUMNS)
    return raw.execute(f"SELECT {names} FROM audit_event ORDER BY seq").fetchall()  # noqa: S608


def _edit(raw: sqlite3.Connection, seq: int, column: str, value: Any) -> None:
    if column == "seq" and not isinstance(value, int):
        return
    raw.execute(
        f"UPDATE OR REPLACE audit_event SET {column} = ? WHERE seq = ?",  # noqa: S608
        (value, seq),
    )


def _shift(raw: sqlite3.Connection, start: int, by: int) -> None:
    raw.execute("UPDATE audit_event SET seq = seq + 1000 WHERE seq >= ?", (start,))
    raw.execute("UPDATE OR REPLACE audit_event SET seq = seq - 1000 + ? WHERE seq >= 900", (by,))


def _remove(raw: sqlite3.Connection, seq: int, renumber: bool) -> None:
    raw.execute("DELETE FROM audit_event WHERE seq = ?", (seq,))
    if renumber:
        _shift(raw, seq, -1)


def _swap(raw: sqlite3.Connection, one: int, other: int) -> None:
    raw.execute("UPDATE audit_event SET seq = 5000 WHERE seq = ?", (one,))
    raw.execute("UPDATE audit_event SET seq = ? WHERE seq = ?", (one, other))
    raw.execute("UPDATE audit_event SET seq = ? WHERE seq = 5000", (other,))


def _insert(raw: sqlite3.Connection, seq: int, column: str, value: str) -> None:
    before = raw.execute("SELECT hash FROM audit_event WHERE seq = ?", (seq - 1,)).fetchone()
    event: dict[str, Any] = dict.fromkeys(COLUMNS, "x") | {"seq": seq, "version": 1, column: value}
    event["prev_hash"] = before[0] if before else GENESIS
    if not isinstance(event["prev_hash"], str):
        return
    event["hash"] = event_hash(event)
    _shift(raw, seq, 1)
    marks = ", ".join("?" * len(COLUMNS))
    raw.execute(
        f"INSERT OR REPLACE INTO audit_event ({', '.join(COLUMNS)}) VALUES ({marks})",  # noqa: S608
        [event[name] for name in COLUMNS],
    )


def _rehash(raw: sqlite3.Connection, seq: int, to_the_end: bool) -> None:
    before: str | None = None
    for values in rows_of(raw):
        event = dict(zip(COLUMNS, values, strict=True))
        sound = all(isinstance(event[name], str) for name in TEXTS) and (
            isinstance(event["version"], int) and abs(event["version"]) < 2**53
        )
        if event["seq"] < seq or not sound or abs(event["seq"]) >= 2**53:
            before = event["hash"] if isinstance(event["hash"], str) else before
            continue
        if before is not None and to_the_end:
            event["prev_hash"] = before
        before = event_hash(event)
        raw.execute(
            "UPDATE audit_event SET prev_hash = ?, hash = ? WHERE seq = ?",
            (event["prev_hash"], before, event["seq"]),
        )
        if not to_the_end:
            return


def _cut(raw: sqlite3.Connection, seq: int) -> None:
    raw.execute("DELETE FROM audit_event WHERE seq >= ?", (seq,))


STEPS = {
    "edit": _edit,
    "remove": _remove,
    "swap": _swap,
    "insert": _insert,
    "rehash": _rehash,
    "cut": _cut,
}


@pytest.mark.feature("P52")
@given(steps=tampering)
@example(steps=[("swap", 10, 1), ("rehash", 8, True), ("edit", 2, "seq", 2**62)])
@settings(max_examples=200, deadline=None)
def test_no_tampering_leaves_the_chain_intact(
    filled: tuple[Ledger, Path], steps: list[tuple[Any, ...]]
) -> None:
    ledger, kept = filled
    for left in ledger.data_dir.glob(f"{FILE_NAME}-*"):
        left.unlink()
    for name in (FILE_NAME, HEAD_FILE):
        shutil.copy(kept / name, ledger.data_dir / name)
    with closing(sqlite3.connect(ledger.data_dir / FILE_NAME)) as raw:
        before = rows_of(raw)
        for kind, *values in steps:
            STEPS[kind](raw, *values)
        after = rows_of(raw)
        raw.commit()
    # What was noted is the first COUNT events; only events behind them may have come.
    assume(after[:COUNT] != before)
    verdict = audit_check.verify(ledger.data_dir)
    ledger.close()
    assert not verdict.intact
    assert verdict.first_break is not None
    assert verdict.first_break.kind in {"edited", "removed", "inserted", "reordered", "cut off"}
    assert verdict.first_break.seq <= COUNT + 1
    assert [row[0] for row in after[: verdict.events]] == list(range(1, verdict.events + 1))


@given(
    detail=st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**53) + 1, 2**53 - 1)
            | st.floats(-1e15, 1e15)  # larger whole ones read back as integers
            | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=5), inner, max_size=3)
            ),
            max_leaves=8,
        ),
        max_size=4,
    )
)
@settings(max_examples=100, deadline=None)
def test_any_detail_comes_back_as_it_went_in(detail: dict[str, Any]) -> None:
    written = audit._canonical(detail).decode()
    assert json.loads(written) == detail
    assert audit._canonical(json.loads(written)).decode() == written
