"""Bytes leave the quarantine so that the audit chain is true whenever the command is cut off."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.db import Ledger, open_ledger
from storage.index import record_arrivals
from storage.objects import ObjectStore
from storage.part10 import file_head
from storage.quarantine import Quarantine
from storage.records import AuditEvent, Instance
from tests.raw import CT, EXPLICIT, ct
from tests.storage_rows import arrival, associate
from tests.unit.dicomnode.cli.conftest import Run

PART10 = file_head(CT, "1.2.3.4", EXPLICIT) + ct()
DIGEST = "ab" * 32


def quarantined_instance(ledger: Ledger) -> Path:
    store = ObjectStore(ledger.data_dir)
    stored = store.put(PART10)
    association = associate(ledger)
    record_arrivals(ledger, [arrival(association, "1.2.3.4", key=stored.key)])
    store.close()
    with ledger.transaction() as change:
        change.move(Instance.get(), "quarantined", reason="pixels differ")
    return store.path(stored.key)


def refused_bytes(ledger: Ledger) -> Path:
    folder = ledger.data_dir / "quarantine"
    folder.mkdir()
    path = folder / f"{DIGEST}.dcm"
    path.write_bytes(PART10)
    return path


CASES = {
    "instance": (quarantined_instance, "instance:1", ObjectStore),
    "quarantine": (refused_bytes, DIGEST[:12], Quarantine),
}


@pytest.mark.feature("P26")
@pytest.mark.parametrize("kind", CASES)
def test_a_deletion_that_is_cut_off_is_on_record_as_begun(
    medai: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    make, name, remover = CASES[kind]
    config = tmp_path / "medai_node.toml"
    config.write_text('[node]\ndata_dir = "data"\n')
    path = make(open_ledger(tmp_path / "data"))

    def actions() -> list[str]:
        query = AuditEvent.select(AuditEvent.action).where(AuditEvent.action.contains(".delet"))
        return [action for (action,) in query.order_by(AuditEvent.seq).tuples()]

    def cut_off(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(remover, "remove", cut_off)
        assert medai("quarantine", "delete", name, "--config", config).code == 130
    assert path.exists()
    assert actions() == [f"{kind}.deleting"]
    assert medai("quarantine", "delete", name, "--config", config).code == 0
    assert not path.exists()
    assert actions() == [f"{kind}.deleting", f"{kind}.deleting", f"{kind}.deleted"]
