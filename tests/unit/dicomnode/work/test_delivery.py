"""One courier in this process: what it sends in place of what a destination does not take."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SegmentationStorage,
)

from config.schema import Settings
from dicomnode.net.standin import StandInPacs
from dicomnode.results.write import deflated
from dicomnode.work.delivery import Courier
from dicomnode.work.execute import kinds_to_build
from storage import attempts, audit, dispatch, fallback, overview
from storage.db import Ledger, open_ledger
from storage.objects import ObjectStore
from storage.outbox import NewResult
from storage.records import Delivery
from tests import factories
from tests.storage_rows import some_jobs

CLASSES = {
    "sr": Comprehensive3DSRStorage,
    "sr-comprehensive": ComprehensiveSRStorage,
    "sr-basic": BasicTextSRStorage,
    "seg": SegmentationStorage,
}


class Outbox:
    """A job that is ready with one object a kind, as bytes of the SOP class of that kind."""

    def __init__(self, folder: Path) -> None:
        self.ledger: Ledger = open_ledger(folder)
        self.store = ObjectStore(folder, min_free=0)
        self.deflate = False

    def fill(self, made: Collection[str], wanted: Sequence[str], folder: Path) -> None:
        some_jobs(self.ledger, 1)
        running = dispatch.claim(self.ledger, "w", 60)
        assert running is not None
        attempts.start_validating(self.ledger, running)
        results = []
        for number, kind in enumerate(made):
            dataset = factories.structured_report(seed=number)
            dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CLASSES[kind]
            (path,) = factories.write([dataset], folder / kind)
            content = path.read_bytes()
            kept = self.store.put(deflated(content) if self.deflate else content)
            results.append(
                NewResult(
                    kind=kind,
                    sop_class_uid=CLASSES[kind],
                    sop_instance_uid=dataset.SOPInstanceUID,
                    transfer_syntax_uid=dataset.file_meta.TransferSyntaxUID,
                    digest=kept.digest,
                    size=kept.size,
                    object_key=kept.key,
                )
            )
        attempts.finish(self.ledger, running, results, {"pacs": wanted}, {})

    def deliver(self, pacs: StandInPacs, **more: Any) -> int:
        place = {"name": "pacs", "ae_title": pacs.ae_title, "host": "127.0.0.1", "port": pacs.port}
        settings = Settings(destinations=[place | more])
        return Courier(settings, "pacs", self.ledger, self.store).deliver(lambda: False)


@pytest.fixture
def out(tmp_path: Path):
    opened = Outbox(tmp_path / "node")
    yield opened
    opened.store.close()
    opened.ledger.close()


def told() -> dict[str, tuple[str, str, str | None]]:
    return {
        row["wanted"]: (row["kind"], row["state"], row["fell_back"])
        for row in overview.deliveries()
    }


NOT_TAKEN = "the destination accepts no presentation context for it"


def test_what_is_not_taken_falls_back_and_the_others_go_on(out: Outbox, tmp_path: Path) -> None:
    out.fill(["seg", "sr", "sr-comprehensive", "sr-basic"], ["seg", "sr"], tmp_path / "made")
    refused = [Comprehensive3DSRStorage, ComprehensiveSRStorage]
    with StandInPacs(tmp_path / "pacs", refuses=refused) as pacs:
        assert out.deliver(pacs) == 2
        classes = [dcmread(path).SOPClassUID for path in pacs.files.values()]
    assert classes == [SegmentationStorage, BasicTextSRStorage]
    assert told() == {
        "seg": ("seg", "accepted", None),
        "sr": ("sr-basic", "accepted", f"sr: {NOT_TAKEN}"),
    }
    assert fallback.accepted_kinds("pacs") == {"seg", "sr-basic"}
    actions = [event["action"] for event in audit.events()]
    assert actions.count("delivery.fell_back") == 1


def test_a_destination_that_takes_nothing_of_a_chain_refuses_it(
    out: Outbox, tmp_path: Path
) -> None:
    out.fill(["sr", "sr-basic"], ["sr"], tmp_path / "made")
    with StandInPacs(tmp_path / "pacs", refuses=list(CLASSES.values())) as pacs:
        assert out.deliver(pacs) == 0
        assert pacs.stores == []
    (row,) = Delivery.select()
    assert (row.state, row.reason, row.fell_back) == ("refused", NOT_TAKEN, None)
    assert overview.destinations() == {}


def test_a_class_that_is_refused_by_status_falls_back_too(out: Outbox, tmp_path: Path) -> None:
    out.fill(["sr", "sr-comprehensive"], ["sr"], tmp_path / "made")
    answer = lambda number: 0x0122 if number == 1 else 0x0000  # noqa: E731
    with StandInPacs(tmp_path / "pacs", answer=answer) as pacs:
        assert out.deliver(pacs) == 1
    assert told()["sr"] == (
        "sr-comprehensive",
        "accepted",
        "sr: 0x0122: SOP class not supported",
    )


@pytest.mark.feature("P03")
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_what_is_kept_deflated_is_sent_as_the_destination_takes_it(
    out: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: str
) -> None:
    # It would take it deflated as well: that is not offered.
    taken = {syntax, DeflatedExplicitVRLittleEndian}
    monkeypatch.setattr("dicomnode.net.standin.transfer_syntaxes", lambda: taken)
    out.deflate = True
    out.fill(["sr"], ["sr"], tmp_path / "made")
    stored = out.store.path(Delivery.get().result.object_key)
    with StandInPacs(tmp_path / "pacs") as pacs:
        assert out.deliver(pacs) == 1
        (path,) = pacs.files.values()
    received = dcmread(path)
    assert received.file_meta.TransferSyntaxUID == syntax
    assert dcmread(stored).file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    assert received == dcmread(stored)


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_a_destination_whose_viewers_read_deflated_gets_it_where_it_takes_it(
    out: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: str
) -> None:
    taken = {syntax, ImplicitVRLittleEndian}
    monkeypatch.setattr("dicomnode.net.standin.transfer_syntaxes", lambda: taken)
    out.deflate = True
    out.fill(["sr"], ["sr"], tmp_path / "made")
    stored = dcmread(out.store.path(Delivery.get().result.object_key))
    with StandInPacs(tmp_path / "pacs") as pacs:
        assert out.deliver(pacs, deflated=True) == 1
        (path,) = pacs.files.values()
    received = dcmread(path)
    assert received.file_meta.TransferSyntaxUID == syntax
    assert received == stored


def test_a_kept_result_that_is_damaged_holds_up_no_other(out: Outbox, tmp_path: Path) -> None:
    out.deflate = True
    out.fill(["seg", "sr"], ["seg", "sr"], tmp_path / "made")
    path = out.store.path(Delivery.get().result.object_key)
    path.write_bytes(path.read_bytes()[:-40])
    with StandInPacs(tmp_path / "pacs") as pacs:
        assert out.deliver(pacs) == 1
    states = {row.result.kind: row.state for row in Delivery.select()}
    assert states == {"seg": "dead", "sr": "accepted"}


@pytest.mark.feature("P42")
def test_a_destination_that_is_down_is_given_up_after_its_days(out: Outbox, tmp_path: Path) -> None:
    out.fill(["sr"], ["sr"], tmp_path / "made")
    with StandInPacs(tmp_path / "pacs") as pacs:
        pass
    for _ in range(2):
        assert out.deliver(pacs, retry_seconds=0, retry_max_seconds=0, give_up_days=1) == 0
        Delivery.update(since=0.0).execute()
    (row,) = Delivery.select()
    assert row.state == "dead"
    assert overview.destinations()["pacs"]["failures"] >= 2


def test_forms_that_may_stand_in_are_made_until_one_is_known_to_be_taken(
    out: Outbox,
) -> None:
    wanted = {"pacs": ("sr", "seg")}
    chains = {"sr", "sr-comprehensive", "sr-basic", "seg", "overlay"}
    assert kinds_to_build(wanted) == chains
    fallback.note_kinds(out.ledger, "pacs", {"sr": False, "sr-comprehensive": True, "seg": True})
    assert kinds_to_build(wanted) == {"sr", "sr-comprehensive", "seg"}
    assert kinds_to_build(wanted | {"desk": ("sr",)}) == chains - {"overlay"}
