"""The audit chain: gapless under load, and every kind of tampering found and named."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from config.errors import AuditError
from storage import audit, audit_check
from storage.audit import COLUMNS, GENESIS, HEAD_FILE, event_hash
from storage.audit_check import Break
from storage.db import Ledger
from storage.records import AuditEvent
from tests.storage_rows import append_events, in_processes, tamper

pytestmark = pytest.mark.feature("P52")

COUNT = 12


def fill(ledger: Ledger, count: int = COUNT) -> None:
    for number in range(count):
        with ledger.transaction() as change:
            change.audit("test.event", object=f"row:{number}", detail={"n": number})


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    fill(ledger)
    assert audit_check.verify(ledger.data_dir).intact
    return ledger


def row(seq: int) -> dict[str, Any]:
    found = AuditEvent.select().where(AuditEvent.seq == seq).dicts().get()
    return dict(found)


def found_in(ledger: Ledger) -> Break:
    verdict = audit_check.verify(ledger.data_dir)
    assert not verdict.intact
    assert verdict.first_break is not None
    return verdict.first_break


def insert(values: dict[str, Any]) -> tuple[str, Sequence[Any]]:
    places = ", ".join("?" * len(COLUMNS))
    sql = f"INSERT INTO audit_event ({', '.join(COLUMNS)}) VALUES ({places})"  # noqa: S608
    return sql, [values[name] for name in COLUMNS]


def shift(start: int, by: int) -> list[tuple[str, Sequence[Any]]]:
    """Renumber all events from `start` on; in two steps, as numbers are unique."""
    return [
        ("UPDATE audit_event SET seq = -(seq + ?) WHERE seq >= ?", (by, start)),
        ("UPDATE audit_event SET seq = -seq WHERE seq < 0", ()),
    ]


def relinked(first: int) -> list[tuple[str, Sequence[Any]]]:
    """Hash all events from `first` on anew, so that each follows the one before."""
    before = row(first - 1)["hash"] if first > 1 else GENESIS
    statements: list[tuple[str, Sequence[Any]]] = []
    for event in list(audit.events(first - 1)):
        event["prev_hash"] = before
        before = event_hash(event)
        statements.append(
            (
                "UPDATE audit_event SET prev_hash = ?, hash = ? WHERE seq = ?",
                (event["prev_hash"], before, event["seq"]),
            )
        )
    return statements


def test_a_new_chain_is_intact_and_empty(ledger: Ledger) -> None:
    verdict = audit_check.verify(ledger.data_dir)
    assert (verdict.events, verdict.head, verdict.intact) == (0, None, True)


def test_processes_that_append_at_once_give_one_gapless_chain(ledger: Ledger) -> None:
    assert in_processes(append_events, ledger.data_dir, 4, 40) == [40] * 4
    events = list(audit.events())
    assert [event["seq"] for event in events] == list(range(1, 161))
    assert sorted(event["object"] for event in events) == sorted(
        f"p{process}:{number}" for process in range(4) for number in range(40)
    )
    verdict = audit_check.verify(ledger.data_dir)
    assert verdict.intact
    assert (verdict.events, verdict.head) == (160, audit.HeadFile(ledger.data_dir).read())


def test_several_events_of_one_transaction_follow_one_another(ledger: Ledger) -> None:
    with ledger.transaction() as change:
        assert [change.audit("test.event", object=str(n)) for n in range(3)] == [1, 2, 3]
    assert audit_check.verify(ledger.data_dir).events == 3
    first, second, third = audit.events()
    assert (first["prev_hash"], second["prev_hash"]) == (GENESIS, first["hash"])
    assert third["prev_hash"] == second["hash"] == event_hash(second)


EDITS: dict[str, Any] = {
    "version": 2,
    "time": "2020-01-01T00:00:00.000000+00:00",
    "actor": "somebody",
    "action": "test.other",
    "object": "row:99",
    "outcome": "failure",
    "detail": '{"n":99}',
    "prev_hash": "f" * 64,
    "hash": "f" * 64,
}


@pytest.mark.parametrize("seq", [1, 5, COUNT])
@pytest.mark.parametrize("column", EDITS)
def test_an_edited_column_is_found(filled: Ledger, column: str, seq: int) -> None:
    tamper(
        filled.data_dir,
        (f"UPDATE audit_event SET {column} = ? WHERE seq = ?", (EDITS[column], seq)),  # noqa: S608
    )
    found = found_in(filled)
    assert (found.kind, found.seq) == ("edited", seq)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("version", 1.5),
        ("version", "one"),
        ("version", 2**60),
        ("detail", b'{"n":4}'),
        ("actor", b"\xff\xfe"),
        ("object", 5),
        ("hash", b"\xff"),
        ("prev_hash", b""),
    ],
)
def test_a_value_of_another_type_is_an_edit(filled: Ledger, column: str, value: Any) -> None:
    tamper(
        filled.data_dir,
        (f"UPDATE audit_event SET {column} = ? WHERE seq = 5", (value,)),  # noqa: S608
    )
    found = found_in(filled)
    assert (found.kind, found.seq) == ("edited", 5)


def test_text_that_is_no_utf_8_is_an_edit(filled: Ledger) -> None:
    tamper(
        filled.data_dir,
        ("UPDATE audit_event SET detail = CAST(x'fffe' AS TEXT) WHERE seq = 5", ()),
    )
    assert (found_in(filled).kind, found_in(filled).seq) == ("edited", 5)


@pytest.mark.parametrize(
    ("seq", "to", "kind", "at"),
    [
        (5, COUNT + 1, "reordered", 5),
        (5, COUNT + 100, "reordered", 5),
        (1, COUNT + 1, "reordered", 1),
        (COUNT, COUNT + 5, "reordered", COUNT),
        (5, 0, "inserted", 0),
        (5, -3, "inserted", -3),
    ],
)
def test_an_edited_number_is_found(filled: Ledger, seq: int, to: int, kind: str, at: int) -> None:
    tamper(filled.data_dir, ("UPDATE audit_event SET seq = ? WHERE seq = ?", (to, seq)))
    found = found_in(filled)
    assert (found.kind, found.seq) == (kind, at)


@pytest.mark.parametrize("seq", [1, 2, 6, COUNT - 1])
def test_a_removed_row_is_found(filled: Ledger, seq: int) -> None:
    tamper(filled.data_dir, ("DELETE FROM audit_event WHERE seq = ?", (seq,)))
    assert (found_in(filled).kind, found_in(filled).seq) == ("removed", seq)


@pytest.mark.parametrize(("seq", "rows"), [(1, 1), (6, 1), (6, 3), (1, 4), (COUNT - 1, 1)])
def test_removed_rows_are_found_when_the_later_ones_move_up(
    filled: Ledger, seq: int, rows: int
) -> None:
    tamper(
        filled.data_dir,
        ("DELETE FROM audit_event WHERE seq >= ? AND seq < ?", (seq, seq + rows)),
        *shift(seq, -rows),
    )
    assert (found_in(filled).kind, found_in(filled).seq) == ("removed", seq)


@pytest.mark.parametrize("seq", [1, 6, COUNT])
@pytest.mark.parametrize("how", ["consistent", "own hash wrong", "wrong predecessor"])
def test_an_inserted_row_is_found(filled: Ledger, how: str, seq: int) -> None:
    before = row(seq - 1)["hash"] if seq > 1 else GENESIS
    forged = {**row(seq), "object": "forged", "prev_hash": before}
    if how == "wrong predecessor":
        forged["prev_hash"] = "e" * 64
    forged["hash"] = event_hash(forged) if how != "own hash wrong" else "d" * 64
    tamper(filled.data_dir, *shift(seq, 1), insert(forged))
    assert (found_in(filled).kind, found_in(filled).seq) == ("inserted", seq)


def test_rows_inserted_one_after_the_other_are_found(filled: Ledger) -> None:
    first = {**row(6), "object": "forged"}
    first["hash"] = event_hash(first)
    second = {**row(6), "seq": 7, "object": "forged", "prev_hash": first["hash"]}
    second["hash"] = event_hash(second)
    tamper(filled.data_dir, *shift(6, 2), insert(first), insert(second))
    assert (found_in(filled).kind, found_in(filled).seq) == ("inserted", 6)


@pytest.mark.parametrize("seq", [0, -1, -(2**40)])
def test_a_row_before_the_first_is_found(filled: Ledger, seq: int) -> None:
    forged = {**row(1), "seq": seq}
    forged["hash"] = event_hash(forged)
    tamper(filled.data_dir, insert(forged))
    assert (found_in(filled).kind, found_in(filled).seq) == ("inserted", seq)


@pytest.mark.parametrize(("one", "other"), [(1, 2), (5, 6), (2, 9), (1, COUNT), (COUNT - 1, COUNT)])
def test_two_swapped_rows_are_found(filled: Ledger, one: int, other: int) -> None:
    tamper(
        filled.data_dir,
        ("UPDATE audit_event SET seq = -1 WHERE seq = ?", (one,)),
        ("UPDATE audit_event SET seq = ? WHERE seq = ?", (one, other)),
        ("UPDATE audit_event SET seq = ? WHERE seq = -1", (other,)),
    )
    assert (found_in(filled).kind, found_in(filled).seq) == ("reordered", one)


def test_an_edited_row_with_its_hash_made_anew_is_found(filled: Ledger) -> None:
    edited = {**row(5), "actor": "somebody"}
    tamper(
        filled.data_dir,
        (
            "UPDATE audit_event SET actor = 'somebody', hash = ? WHERE seq = 5",
            (event_hash(edited),),
        ),
    )
    assert (found_in(filled).kind, found_in(filled).seq) == ("edited", 5)


@pytest.mark.parametrize("left", [COUNT - 1, COUNT - 4, 1, 0])
def test_a_tail_that_was_cut_off_is_found(filled: Ledger, left: int) -> None:
    tamper(filled.data_dir, ("DELETE FROM audit_event WHERE seq > ?", (left,)))
    verdict = audit_check.verify(filled.data_dir)
    assert verdict.events == left
    assert (found_in(filled).kind, found_in(filled).seq) == ("cut off", left + 1)


def test_a_cut_tail_is_still_found_after_the_chain_went_on(
    filled: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    tamper(filled.data_dir, ("DELETE FROM audit_event WHERE seq > ?", (COUNT - 4,)))
    with caplog.at_level(logging.ERROR):
        fill(filled, 10)
    assert AuditEvent.select().count() == COUNT + 6
    assert (found_in(filled).kind, found_in(filled).seq) == ("edited", COUNT)
    assert [record.message for record in caplog.records] == [
        "the audit chain no longer holds its noted head: run 'audit verify'"
    ]


@pytest.mark.parametrize("rows_too", [False, True])
def test_a_noted_head_that_was_removed_is_found_even_after_the_chain_went_on(
    filled: Ledger, rows_too: bool
) -> None:
    (filled.data_dir / HEAD_FILE).unlink()
    if rows_too:
        tamper(filled.data_dir, ("DELETE FROM audit_event", ()))
    assert found_in(filled).kind == "cut off"
    fill(filled, 3)
    assert found_in(filled).kind == "cut off"


@pytest.mark.parametrize("first", [1, 6, COUNT])
def test_a_tail_hashed_anew_is_found(filled: Ledger, first: int) -> None:
    tamper(filled.data_dir, ("UPDATE audit_event SET actor = 'x' WHERE seq = ?", (first,)))
    tamper(filled.data_dir, *relinked(first))
    assert (found_in(filled).kind, found_in(filled).seq) == ("edited", COUNT)


def test_a_removed_row_with_the_tail_hashed_anew_is_found(filled: Ledger) -> None:
    tamper(filled.data_dir, ("DELETE FROM audit_event WHERE seq = 5", ()), *shift(5, -1))
    tamper(filled.data_dir, *relinked(5))
    assert (found_in(filled).kind, found_in(filled).seq) == ("cut off", COUNT)


def test_a_crash_between_commit_and_noted_head_leaves_the_chain_intact(ledger: Ledger) -> None:
    head = ledger.data_dir / HEAD_FILE
    fresh = head.read_bytes()
    fill(ledger, 3)
    head.write_bytes(fresh)  # the very first events committed, their head never noted
    assert audit_check.verify(ledger.data_dir).intact
    fill(ledger, 3)
    older = head.read_bytes()
    fill(ledger, 3)
    head.write_bytes(older)
    assert audit_check.verify(ledger.data_dir).intact
    fill(ledger, 1)
    verdict = audit_check.verify(ledger.data_dir)
    assert (verdict.intact, verdict.events) == (True, 10)
    assert audit.HeadFile(ledger.data_dir).read() == verdict.head


def test_a_head_that_is_late_does_not_go_back(filled: Ledger) -> None:
    head = audit.HeadFile(filled.data_dir)
    noted = head.read()
    late = audit.Chain(filled.database)
    late.start = audit.Head(3, row(3)["hash"])
    late.tail = audit.Head(4, row(4)["hash"])
    head.advance(late)
    assert head.read() == noted


@pytest.mark.parametrize("content", [b"", b"\x00" * 96, b"nonsense", b"-1 " + b"0" * 64])
def test_an_unreadable_head_is_an_error_and_stays_one(filled: Ledger, content: bytes) -> None:
    (filled.data_dir / HEAD_FILE).write_bytes(content)
    fill(filled, 1)
    with pytest.raises(AuditError, match="unreadable"):
        audit_check.verify(filled.data_dir)
    (filled.data_dir / HEAD_FILE).unlink()
    (filled.data_dir / HEAD_FILE).mkdir()
    with pytest.raises(AuditError, match="cannot be read: Is a directory"):
        audit_check.verify(filled.data_dir)


def test_a_head_that_cannot_be_noted_does_not_undo_what_was_committed(
    filled: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    path = filled.data_dir / HEAD_FILE
    content = path.read_bytes()
    path.unlink()
    path.mkdir()
    fill(filled, 1)
    assert "could not be noted" in caplog.text
    path.rmdir()
    path.write_bytes(content)
    verdict = audit_check.verify(filled.data_dir)
    assert (verdict.intact, verdict.events) == (True, COUNT + 1)


def test_detail_is_canonical_json_and_keeps_its_types(ledger: Ledger) -> None:
    detail = {"z": None, "a": [1, "1", True, 1.5], "é": {"nested": "\u0000\n😀"}, "n": 2**53 - 1}
    with ledger.transaction() as change:
        change.audit("test.event", object="x", detail=detail)
    (event,) = audit.events()
    assert json.loads(event["detail"]) == detail
    assert event["detail"].startswith('{"a":[1,"1",true,1.5],"n":9007199254740991,"z":null,"é"')
    assert audit_check.verify(ledger.data_dir).intact


@pytest.mark.parametrize(
    "detail",
    [{"x": b"bytes"}, {"x": float("nan")}, {1: "x"}, {"x": {2, 3}}, {"x": "\ud800"}, {"x": 2**60}],
    ids=["bytes", "nan", "key", "set", "surrogate", "integer"],
)
def test_what_json_cannot_hold_is_refused_with_its_transaction(
    ledger: Ledger, detail: dict[Any, Any]
) -> None:
    with pytest.raises(AuditError, match="canonical JSON"), ledger.transaction() as change:
        change.audit("test.event", object="x", detail=detail)
    assert not list(audit.events())
    assert audit_check.verify(ledger.data_dir).intact


def test_the_head_is_written_for_its_owner_only(filled: Ledger) -> None:
    assert Path(filled.data_dir / HEAD_FILE).stat().st_mode & 0o777 == 0o600
