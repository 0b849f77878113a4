"""Received objects into their series: versions of one instance, and what cannot be read."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from storage.index import Kept
from storage.records import Instance, Job
from tests import factories
from tests.unit.dicomnode.work.conftest import (
    Node,
    inputs,
    job_states,
    only_series,
)


def ct(slices: int = 12, **other: object) -> list[Dataset]:
    return factories.ct_series(slices, **other)  # type: ignore[arg-type]


def renamed(image: Dataset) -> Dataset:
    other = deepcopy(image)
    other.PatientName = "CORRECTED^SYNTHETIC"
    return other


@pytest.mark.feature("P04")
def test_the_same_object_again_changes_nothing(node: Node) -> None:
    node.receive(ct())
    assert node.step() == 1
    assert set(node.receive(ct())) == {Kept.SAME}
    assert node.step() == 0
    assert job_states() == ["queued"]


@pytest.mark.parametrize("in_one_batch", [False, True])
def test_a_corrected_name_replaces_the_first_and_runs_again(node: Node, in_one_batch: bool) -> None:
    images = ct()
    node.receive(images)
    if not in_one_batch:
        assert node.step() == 1
    assert node.receive([renamed(image) for image in images]) == [Kept.REVISION] * 12
    assert node.step() == 1
    (job,) = Job.select().where(Job.state == "queued")
    assert {row.revision for row in inputs(job)} == {1}
    assert len(inputs(job)) == 12
    assert job_states() == (["queued"] if in_one_batch else ["superseded", "queued"])
    assert only_series().instances == 12
    replaced = Instance.select().where(Instance.state == "superseded")
    assert {row.reason for row in replaced} == {"corrected attributes were received"}


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, RLELossless])
def test_the_same_content_in_another_transfer_syntax_is_dropped(node: Node, syntax: str) -> None:
    images = ct()
    node.receive(images)
    node.step()
    node.receive([factories.encoded(image, syntax) for image in images])
    assert node.step() == 0
    assert job_states() == ["queued"]
    dropped = list(Instance.select().where(Instance.state == "superseded"))
    assert {row.revision for row in dropped} == {1}
    assert {row.reason for row in dropped} == {"the same content was received before"}
    assert only_series().state == "routed"


@pytest.mark.feature("F16")
@pytest.mark.parametrize("in_one_batch", [False, True])
def test_other_pixels_under_the_same_uid_are_quarantined(node: Node, in_one_batch: bool) -> None:
    images = ct()
    node.receive(images)
    if not in_one_batch:
        node.step()
    other = deepcopy(images[3])
    other.PixelData = bytes([other.PixelData[0] ^ 1]) + other.PixelData[1:]
    node.receive([other])
    node.step()
    (row,) = Instance.select().where(Instance.state == "quarantined")
    assert (row.revision, row.reason) == (
        1,
        "its pixels differ from those first received under its UID",
    )
    assert job_states() == ["queued"]
    assert {row.revision for row in inputs(Job.get())} == {0}


def settled_late(images: Sequence[Dataset]) -> None:
    """Make it so that rows written last were acknowledged just before the others."""
    uids = [image.SOPInstanceUID for image in images]
    for row in Instance.select().where(
        (Instance.revision == 1) & Instance.sop_instance_uid << uids
    ):
        Instance.update(received_at=row.received_at - 1.0).where(Instance.id == row.id).execute()


@pytest.mark.parametrize("in_one_batch", [False, True])
def test_a_correction_whose_row_came_first_is_not_taken_back(
    node: Node, in_one_batch: bool
) -> None:
    images = ct()
    node.receive([renamed(image) for image in images])
    if not in_one_batch:
        node.step()
    node.receive(images)
    settled_late(images)
    node.step()
    (job,) = Job.select()
    assert {row.revision for row in inputs(job)} == {0}
    assert Instance.select().where(Instance.state == "superseded").count() == 12


def test_other_pixels_whose_row_came_first_make_room_for_the_first(node: Node) -> None:
    images = ct()
    other = deepcopy(images[3])
    other.PixelData = bytes([other.PixelData[0] ^ 1]) + other.PixelData[1:]
    node.receive([*images[:3], other, *images[4:]])
    node.step()
    node.receive([images[3]])
    settled_late(images)
    node.step()
    (row,) = Instance.select().where(Instance.state == "quarantined")
    assert row.revision == 0
    assert job_states() == ["superseded", "queued"]
    assert only_series().instances == 12


def test_the_same_uid_in_another_series_is_quarantined(node: Node) -> None:
    images = ct()
    node.receive(images)
    node.step()
    other = deepcopy(images[3])
    other.SeriesInstanceUID = "1.2.3"
    node.receive([other])
    assert node.step() == 0
    (row,) = Instance.select().where(Instance.state == "quarantined")
    assert "series is not the one first received" in row.reason
    assert only_series().instances == 12


@pytest.mark.feature("P02")
def test_what_cannot_be_read_is_quarantined_and_holds_nothing_up(node: Node) -> None:
    node.receive(factories.ct_series(1, seed=9), damage=700)
    node.receive(ct())
    assert node.step() == 1
    (row,) = Instance.select().where(Instance.state == "quarantined")
    assert row.reason
    assert only_series().state == "routed"


def test_what_the_disk_refuses_for_a_while_is_not_given_up(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.receive([factories.cr_image(seed=1)])
    node.receive([factories.cr_image(seed=2)])
    refused = node.store.path(Instance.get().object_key)
    opened = Path.open

    def too_many_files(path: Path, *how: Any, **options: Any) -> Any:
        if path == refused:
            raise OSError(errno.EMFILE, "Too many open files")
        return opened(path, *how, **options)

    monkeypatch.setattr(Path, "open", too_many_files)
    assert node.step() == 1  # the other one
    assert sorted(row.state for row in Instance.select()) == ["indexed", "stored"]
    monkeypatch.undo()
    assert node.step() == 1
    assert {row.state for row in Instance.select()} == {"indexed"}
