"""The database: its schema, its upgrades, its transactions and what it says when it cannot."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from peewee import SqliteDatabase

from config.errors import DatabaseVersionError, OutOfSpaceError, StaleStateError, StorageError
from storage import attempts, audit, audit_check, db, dispatch, overview, studies
from storage.announced_records import ProcedureStep
from storage.db import FAILURES, FILE_NAME, Change, Ledger, open_ledger
from storage.record import Record
from storage.records import (
    TABLES,
    AuditEvent,
    CircuitBreaker,
    Delivery,
    Job,
    ModelVersion,
    NodeFact,
    Series,
    Study,
)
from storage.watch_records import Alert, Notice
from tests.contract.test_faults import forbid
from tests.storage_rows import a_series, enqueue, in_processes, new_result, open_only, some_jobs

Schema = dict[str, tuple[list[tuple[object, ...]], set[tuple[object, ...]]]]


def schema_of(path: Path) -> Schema:
    """Of each table: its columns, and its indexes with columns, uniqueness and condition."""
    with closing(sqlite3.connect(path)) as raw:
        names = [
            name
            for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if name not in ("schema_migration", "sqlite_sequence")
        ]
        return {name: (columns_of(raw, name), indexes_of(raw, name)) for name in names}


def columns_of(raw: sqlite3.Connection, table: str) -> list[tuple[object, ...]]:
    return [row[1:4] + row[5:] for row in raw.execute(f"PRAGMA table_info({table})")]


def indexes_of(raw: sqlite3.Connection, table: str) -> set[tuple[object, ...]]:
    found: set[tuple[object, ...]] = set()
    for _, name, unique, origin, _partial in raw.execute(f"PRAGMA index_list({table})"):
        columns = tuple(row[2] for row in raw.execute(f"PRAGMA index_info({name})"))
        (sql,) = raw.execute("SELECT sql FROM sqlite_master WHERE name = ?", (name,)).fetchone()
        condition = re.sub(r"[\s\"()]", "", sql.partition("WHERE")[2]) if sql else ""
        found.add((name if sql else origin, columns, unique, condition))
    return found


def test_the_migrated_schema_is_the_one_of_the_models(tmp_path: Path) -> None:
    open_ledger(tmp_path).close()
    made = SqliteDatabase(str(tmp_path / "made.sqlite"))
    with made.bind_ctx(TABLES):
        made.create_tables(TABLES)
    made.close()
    migrated = schema_of(tmp_path / FILE_NAME)
    modelled = schema_of(tmp_path / "made.sqlite")
    assert set(migrated) == set(modelled) == {table._meta.table_name for table in TABLES}
    for table in modelled:
        assert migrated[table] == modelled[table], table


def test_foreign_keys_are_the_ones_of_the_models_and_are_kept(ledger: Ledger) -> None:
    for table in TABLES:
        wanted = {(key.column_name, key.rel_model._meta.table_name) for key in table._meta.refs}
        found = {
            (key.column, key.dest_table)
            for key in ledger.database.get_foreign_keys(table._meta.table_name)
        }
        assert found == wanted, table
    with pytest.raises(StorageError, match="FOREIGN KEY"), ledger.transaction():
        Series.create(
            series_instance_uid="2.1",
            study="3.1",
            modality="CT",
            sop_class_uid="1.2",
            first_object_at=0.0,
            last_object_at=0.0,
        )


def test_writes_are_durable_and_in_the_write_ahead_log(ledger: Ledger) -> None:
    assert ledger.database.pragma("journal_mode") == "wal"
    assert ledger.database.pragma("synchronous") == 2
    assert ledger.database.pragma("foreign_keys") == 1


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    first = open_ledger(tmp_path)
    overview.set_fact(first, "paused", "yes")
    first.close()
    before = schema_of(tmp_path / FILE_NAME)
    open_ledger(tmp_path).close()
    assert schema_of(tmp_path / FILE_NAME) == before
    assert overview.fact("paused") == "yes"
    assert not (tmp_path / "backup").exists()


def test_processes_that_open_a_new_folder_at_once_migrate_it_once(tmp_path: Path) -> None:
    assert in_processes(open_only, tmp_path, 4) == ["opened"] * 4
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as raw:
        applied = [name for (name,) in raw.execute("SELECT name FROM schema_migration")]
    assert sorted(applied) == sorted(path.stem for path in db.MIGRATIONS.glob("0*.py"))


def test_a_database_of_a_newer_release_is_refused_and_left_alone(tmp_path: Path) -> None:
    open_ledger(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as raw:
        raw.execute(
            "INSERT INTO schema_migration (name, applied) VALUES ('0099_later', '2030-01-01')"
        )
        raw.commit()
    with pytest.raises(DatabaseVersionError, match=r"0099_later.*backup"):
        open_ledger(tmp_path)
    assert not (tmp_path / "backup").exists()


@pytest.fixture
def later_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of migrations as a later release has it."""
    folder = tmp_path / "migrations"
    shutil.copytree(db.MIGRATIONS, folder)
    (folder / "0098_later.py").write_text(
        "def up(migrator, db):\n"
        "    db.execute_sql('CREATE TABLE later (id INTEGER NOT NULL PRIMARY KEY)')\n"
        "    db.execute_sql('SELECT missing FROM node_fact WHERE 0')\n"
    )
    monkeypatch.setattr(db, "MIGRATIONS", folder)
    return folder


def test_an_upgrade_makes_a_backup_first(
    tmp_path: Path, later_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = tmp_path / "node"
    monkeypatch.setattr(db, "MIGRATIONS", Path(db.__file__).parent / "migrations")
    old = open_ledger(node)
    overview.set_fact(old, "node_id", "before")
    old.close()
    monkeypatch.setattr(db, "MIGRATIONS", later_release)
    script = later_release / "0098_later.py"
    with pytest.raises(StorageError, match="missing"):
        open_ledger(node)
    with closing(sqlite3.connect(node / FILE_NAME)) as raw:
        assert not raw.execute("SELECT 1 FROM sqlite_master WHERE name = 'later'").fetchall()
    script.write_text("\n".join(script.read_text().splitlines()[:2]))
    new = open_ledger(node)
    assert new.database.table_exists("later")
    new.close()
    backup = node / "backup" / "before-0098_later.sqlite"
    with closing(sqlite3.connect(backup)) as raw:
        assert raw.execute("SELECT value FROM node_fact").fetchall() == [("before",)]
        assert not raw.execute("SELECT 1 FROM sqlite_master WHERE name = 'later'").fetchall()
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_rows_of_the_first_schema_are_brought_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "first"
    first.mkdir()
    shutil.copy(db.MIGRATIONS / "0001_first_schema.py", first)
    node = tmp_path / "node"
    with monkeypatch.context() as patch:
        patch.setattr(db, "MIGRATIONS", first)
        open_ledger(node).close()
    with closing(sqlite3.connect(node / FILE_NAME)) as raw:
        raw.execute("INSERT INTO study VALUES ('3.1', 'open', NULL, 1)")
        raw.execute(
            "INSERT INTO series VALUES"
            " ('2.1', '3.1', 'CT', '1.2', 'routed', NULL, 2, 1, 1, 0, 0, NULL)"
        )
        raw.execute(
            "INSERT INTO job VALUES (1, 'i', '2.1', '2.1', '3.1', 'r', 'm@1.0.0', 'd', '[]',"
            " '[4, 5]', 0, 'ready', NULL, 1, 0, 0, NULL, NULL, 0, 7, 7, 7, NULL)"
        )
        raw.execute(
            "INSERT INTO result VALUES (1, 1, 'seg', '1.2', '1.3', '1.2.1', 'd', 1, 'k', 7)"
        )
        raw.execute(
            "INSERT INTO delivery VALUES (1, 1, 'pacs', 'waiting', NULL, NULL, 0, 0, 0, 7.0, NULL)"
        )
        raw.commit()
    open_ledger(node)
    assert json.loads(Job.get().input_instances) == {"image": [4, 5]}
    delivery = Delivery.get()
    assert (delivery.wanted, delivery.since, delivery.failures) == ("seg", 7.0, 0)


def test_a_file_that_is_no_database_is_said_to_be_damaged(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"This is no database. " * 500)
    with pytest.raises(StorageError, match="the database is damaged: file is not a database"):
        open_ledger(tmp_path)


def test_a_database_that_breaks_later_says_so_on_reads_and_writes(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    with ledger.transaction() as change:
        for number in range(2000):
            change.audit("test.event", object=str(number))
    ledger.database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    ledger.close()
    path = tmp_path / FILE_NAME
    content = bytearray(path.read_bytes())
    for page in range(4096 * 40, len(content), 4096):
        content[page : page + 4096] = b"\xff" * len(content[page : page + 4096])
    path.write_bytes(content)
    with pytest.raises(StorageError, match="the database is damaged"):
        list(audit.events())
    with pytest.raises(StorageError, match="the database is damaged"):
        AuditEvent.select().count()
    with (
        pytest.raises(StorageError, match="the database is damaged"),
        ledger.transaction() as change,
    ):
        change.audit("test.event", object="after")
    ledger.close()


def _open_as_nobody(data_dir: Path, out: Connection) -> None:
    if os.geteuid() == 0:
        os.setuid(65534)
    try:
        open_ledger(data_dir)
    except StorageError as error:
        out.send(str(error))
    else:
        out.send("opened")


def test_a_folder_that_may_not_be_written_is_refused_in_plain_words() -> None:
    # Not below pytest's own folder, which nobody else may enter.
    outer = Path(tempfile.mkdtemp())
    try:
        outer.chmod(0o755)
        folder = outer / "node"
        folder.mkdir(mode=0o555)
        spawn = multiprocessing.get_context("spawn")
        receiving, sending = spawn.Pipe(duplex=False)
        process = spawn.Process(target=_open_as_nobody, args=(folder, sending))
        process.start()
        assert receiving.recv() == "the data folder cannot be written: Permission denied"
        process.join()
        process.close()
    finally:
        shutil.rmtree(outer)


def test_a_file_in_place_of_the_folder_is_refused_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "node").write_text("")
    with pytest.raises(StorageError, match="the data folder cannot be made: File exists"):
        open_ledger(tmp_path / "node")


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "with blank"
    mounts = tmp_path / "mounts"
    mounts.write_bytes(
        b"/dev/sda1 / ext4 rw 0 0\n"
        b"server:/caf\xe9 /caf\xe9 nfs4 rw 0 0\n"
        + f"server:/x {tmp_path}/with\\040blank nfs4 rw 0 0\n".encode()
    )
    real = db.Path
    monkeypatch.setattr(db, "Path", lambda name: mounts if name == "/proc/mounts" else real(name))
    with pytest.raises(StorageError, match=r"network file system \(nfs4\)"):
        open_ledger(folder)
    open_ledger(tmp_path / "with").close()


def test_a_locked_database_is_said_not_to_be_usable_now(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.database.pragma("busy_timeout", 1)
    with closing(sqlite3.connect(ledger.data_dir / FILE_NAME)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked"), ledger.transaction():
            pytest.fail("the lock was not needed")


def move(
    ledger: Ledger,
    row: Record,
    state: str,
    then: Callable[[Change], object] = lambda change: None,
    **fields: object,
) -> None:
    with ledger.transaction() as change:
        change.move(row, state, **fields)
        then(change)


def test_a_transaction_that_fails_leaves_nothing_behind(ledger: Ledger) -> None:
    (job,) = some_jobs(ledger, 1)
    before = list(audit.events())
    with pytest.raises(ZeroDivisionError):
        move(ledger, job, "running", then=lambda change: 1 // 0, attempt=1, owner="me")
    assert list(audit.events()) == before
    assert audit_check.verify(ledger.data_dir).intact
    # The row object is as it was, so that the caller can go on with it.
    assert (job.state, job.attempt, job.owner) == ("queued", 0, None)
    move(ledger, job, "running", attempt=1, owner="me")
    assert Job.get_by_id(job.id).state == "running"


def test_a_violated_constraint_is_a_storage_error(ledger: Ledger) -> None:
    overview.set_fact(ledger, "a", "1")
    with pytest.raises(StorageError, match="UNIQUE"), ledger.transaction():
        NodeFact.create(key="a", value="2")
    assert overview.fact("a") == "1"


def test_a_transaction_inside_another_is_refused(ledger: Ledger) -> None:
    (job,) = some_jobs(ledger, 1)
    before = list(audit.events())
    with pytest.raises(StorageError, match="inside another"):
        move(ledger, job, "running", then=lambda change: overview.set_fact(ledger, "a", "1"))
    assert list(audit.events()) == before
    assert audit_check.verify(ledger.data_dir).intact


def test_a_ledger_whose_tables_were_taken_by_another_is_refused(tmp_path: Path) -> None:
    first = open_ledger(tmp_path / "a")
    second = open_ledger(tmp_path / "b")
    with pytest.raises(StorageError, match="another data folder"), first.transaction():
        pytest.fail("it would have written into the other folder")
    with second.transaction() as change:
        change.audit("test.event", object="b")
    first.close()
    second.close()


TABLES_WITH_STATES = [table for table in TABLES if table.transitions]
MOVES = [
    pytest.param(table, before, after, id=f"{table.noun}-{before}-{after}")
    for table in TABLES_WITH_STATES
    for before in table.transitions
    for after in table.transitions
]


def row_in(ledger: Ledger, table: type[Record], state: str) -> Record:
    series = a_series(ledger)
    job = enqueue(ledger, series)
    assert job is not None
    if table.noun == "delivery":
        running = dispatch.claim(ledger, "w", 60)
        assert running is not None
        attempts.start_validating(ledger, running)
        attempts.finish(ledger, running, [new_result("x")], {"pacs": ["sr"]}, {})
    if issubclass(table, CircuitBreaker):
        table.create(name="guarded")
    if table.noun == "model":
        ModelVersion.create(reference="m@1.0.0", digest="d", state=state, changed_at=1.0)
    if table.noun == "procedure_step":
        ProcedureStep.create(sop_instance_uid="1.7", calling_ae="CT1", changed_at=1.0)
    if table.noun == "alert":
        Alert.create(name="queue", rule="queue", subject="", state=state, since=1.0)
    if table.noun == "notice":
        Notice.create(channel="webhooks:x", content="{}", state=state, created_at=1.0)
    row: Record = table.select().first()
    table.update(state=state).execute()
    return table.get_by_id(row.get_id())  # type: ignore[no-any-return]


@pytest.mark.parametrize(("table", "before", "after"), MOVES)
def test_every_allowed_move_is_made_and_audited_and_every_other_refused(
    ledger: Ledger, table: type[Record], before: str, after: str
) -> None:
    row = row_in(ledger, table, before)
    count = len(list(audit.events()))
    if after in table.transitions[before]:
        with ledger.transaction() as change:
            change.move(row, after, reason="why", actor="tester")
        assert table.get_by_id(row.get_id()).state == row.state == after
        event = list(audit.events())[-1]
        assert event["action"] == f"{table.noun}.{after}"
        assert event["object"] == f"{table.noun}:{row.get_id()}"
        assert event["actor"] == "tester"
        assert event["outcome"] == ("failure" if after in FAILURES else "success")
        assert event["detail"] == f'{{"from":"{before}","reason":"why"}}'
        assert event["seq"] == count + 1
    else:
        with pytest.raises(StorageError, match=f"from {before} to {after}"):
            move(ledger, row, after)
        assert table.get_by_id(row.get_id()).state == row.state == before
        assert len(list(audit.events())) == count


@pytest.mark.parametrize("table", TABLES_WITH_STATES, ids=lambda table: table.noun)
def test_transition_tables_lead_only_to_states_they_know(table: type[Record]) -> None:
    for after in table.transitions.values():
        assert after <= set(table.transitions)
    default = table.state.default
    reached, todo = set(), [default]
    while todo:
        state = todo.pop()
        if state not in reached:
            reached.add(state)
            todo += table.transitions[state]
    assert reached == set(table.transitions)


def test_a_move_from_a_state_somebody_changed_is_stale(ledger: Ledger) -> None:
    a_series(ledger)
    study, same = Study.get(), Study.get()
    with ledger.transaction() as change:
        change.move(study, "settled")
    with pytest.raises(StaleStateError), ledger.transaction() as change:
        change.move(same, "settled")
    assert studies.settle(ledger, 0) == 0


def test_a_full_disk_is_told_as_that_and_the_next_transaction_is_taken(ledger: Ledger) -> None:
    pages = ledger.database.execute_sql("PRAGMA page_count").fetchone()[0]
    ledger.database.execute_sql(f"PRAGMA max_page_count = {pages}")

    def fill() -> None:
        with ledger.transaction() as change:
            for number in range(1000):
                change.audit("test.filled", object=f"test:{number}", detail={"much": "." * 1000})

    with pytest.raises(OutOfSpaceError, match="no room left on the disk for the database"):
        fill()
    with ledger.transaction() as change:
        change.audit("test.taken", object="test:1")
    assert [event["action"] for event in audit.events()] == ["test.taken"]


def test_a_database_on_a_disk_that_became_read_only_can_still_be_looked_at(tmp_path: Path) -> None:
    open_ledger(tmp_path).close()
    lock = tmp_path / "migrate.lock"
    forbid([lock], True)
    try:
        ledger = open_ledger(tmp_path)
        assert AuditEvent.select().count() == 0
        ledger.close()
    finally:
        forbid([lock], False)
