"""One study, delivered in every way that senders have: it ends as one and the same analysis."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydicom.dataset import Dataset

from ai.registry import Registry
from config.peers import PeerSettings
from dicomnode.work.clock import Silence
from storage.records import AuditEvent, Job, Series, Study
from tests import factories
from tests.unit.dicomnode.work.conftest import ROUTES, Node, inputs, job_states

QUIET = {"quiet_seconds": 5, "give_up_seconds": 60, "study_quiet_seconds": 5}
SLICES = 12


class Clocks:
    """The assembler's wall clock and steady clock, moved on together."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:

        self.passed = 0.0
        clock = SimpleNamespace(
            time=lambda: time.time() + self.passed,
            monotonic=lambda: time.monotonic() + self.passed,
        )
        patch.setattr("dicomnode.work.assembler.time", clock)
        patch.setattr("storage.studies.time", clock)
        patch.setattr("storage.db.time", clock)
        self.clock = clock

    def rule(self, node: Node) -> None:
        """Its silences are measured by these clocks too."""
        node.assembler._silence = Silence(self.clock.time, self.clock.monotonic)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


@pytest.fixture
def node(tmp_path: Path, registry: Registry, clocks: Clocks) -> Iterator[Node]:
    opened = Node(tmp_path / "node", registry, routes=ROUTES, series=QUIET)

    clocks.rule(opened)
    yield opened
    opened.close()


def study(seed: int = 1, slices: int = SLICES) -> list[Dataset]:
    return factories.ct_series(slices, seed=seed)


def wait(node: Node, clocks: Clocks, seconds: float) -> int:
    """A second at a time, as the worker looks around; how many jobs came."""
    queued = 0
    for _ in range(int(seconds)):
        clocks.passed += 1
        queued += node.step()
    return queued


Way = Callable[[Node, Clocks, list[Dataset]], None]


def in_one(node: Node, clocks: Clocks, images: list[Dataset]) -> None:
    node.receive(images)


def in_many(node: Node, clocks: Clocks, images: list[Dataset]) -> None:
    for image in images:
        node.receive([image])
        wait(node, clocks, 1)


def beside_another(node: Node, clocks: Clocks, images: list[Dataset]) -> None:
    association = node.open()
    for own, other in zip(images, study(seed=2), strict=True):
        node.store_on(association, [own])
        node.store_on(association, [other])
        wait(node, clocks, 1)
    node.release(association)


def out_of_order(node: Node, clocks: Clocks, images: list[Dataset]) -> None:
    shuffled = random.Random(4).sample(images, len(images))  # noqa: S311 - an order for a test
    for start in range(0, SLICES, 4):
        node.receive(shuffled[start : start + 4])
        wait(node, clocks, 2)


def over_two_at_once(node: Node, clocks: Clocks, images: list[Dataset]) -> None:
    first, second = node.open(), node.open("CT2")
    node.store_on(first, images[::2])
    node.store_on(second, images[1::2])
    node.release(first)
    assert wait(node, clocks, 10) == 0  # the other one is open
    node.release(second)


def held_open(node: Node, clocks: Clocks, images: list[Dataset]) -> None:
    association = node.open()
    node.store_on(association, images[:7])
    assert wait(node, clocks, 20) == 0
    node.store_on(association, images[7:])
    assert wait(node, clocks, 20) == 0
    node.release(association)


@pytest.mark.feature("P04", "P06")
@pytest.mark.parametrize(
    "way", [in_one, in_many, beside_another, out_of_order, over_two_at_once, held_open]
)
def test_a_study_is_analysed_once_however_it_comes(node: Node, clocks: Clocks, way: Way) -> None:
    images = study()
    way(node, clocks, images)
    wait(node, clocks, 12)
    own = images[0].SeriesInstanceUID
    (job,) = Job.select().where(Job.subject == own)
    assert {row.sop_instance_uid for row in inputs(job)} == {each.SOPInstanceUID for each in images}
    assert set(job_states()) == {"queued"}
    assert {row.state for row in Study.select()} == {"settled"}
    assert Series.get_by_id(own).state == "routed"


def test_an_association_held_open_for_ever_ends_with_patience(node: Node, clocks: Clocks) -> None:
    association = node.open()
    node.store_on(association, study())
    assert wait(node, clocks, 55) == 0
    assert wait(node, clocks, 10) == 1
    assert reason().startswith("timeout: 12 came, 1 associations are open")
    node.release(association)


def test_a_pause_longer_than_the_silence_ends_in_one_analysis_of_all(
    node: Node, clocks: Clocks
) -> None:
    images = study(slices=24)
    node.receive(images[:12])
    assert wait(node, clocks, 10) == 1
    node.receive(images[12:])
    assert wait(node, clocks, 10) == 1
    assert job_states() == ["superseded", "queued"]
    assert len(inputs(Job.get(Job.state == "queued"))) == 24


def test_a_gap_waits_longer_than_the_silence(node: Node, clocks: Clocks) -> None:
    images = study()
    node.receive([*images[:5], *images[6:]])
    assert wait(node, clocks, 30) == 0
    node.receive([images[5]])
    assert wait(node, clocks, 10) == 1
    assert job_states() == ["queued"]


def reason() -> str:

    rows = AuditEvent.select().where(AuditEvent.action == "series.complete")
    return str(json.loads(rows.order_by(AuditEvent.seq.desc()).first().detail)["reason"])


def trusting(node: Node, title: str = "CT1") -> None:
    peer = PeerSettings(ae_title=title, hosts=("127.0.0.1",), trust_counts=True)
    node.configure(routes=ROUTES, series=QUIET, peers=[peer])


def counted(images: list[Dataset], **counts: int) -> list[Dataset]:
    for image in images:
        for keyword, count in counts.items():
            setattr(image, keyword, count)
    return images


@pytest.mark.parametrize("keyword", ["ImagesInAcquisition", "NumberOfSeriesRelatedInstances"])
def test_a_series_is_complete_at_once_with_the_count_of_a_trusted_source(
    node: Node, keyword: str
) -> None:
    trusting(node)
    images = counted(study(), **{keyword: SLICES})
    association = node.open()
    node.store_on(association, images[:-1])
    assert node.step() == 0
    node.store_on(association, images[-1:])
    assert node.step() == 1
    assert reason() == "count: 12 came, as its headers announced"
    node.release(association)


def test_acquisitions_of_a_series_count_together(node: Node) -> None:
    trusting(node, "*")
    images = study()
    for number, image in enumerate(images):
        image.AcquisitionNumber = 1 + number % 2
        image.ImagesInAcquisition = SLICES // 2
    node.receive(images[::-1][:11])
    assert node.step() == 0
    node.receive(images[:1])
    assert node.step() == 1


@pytest.mark.parametrize("case", ["no trust", "one does not say", "too few"])
def test_a_count_that_is_not_believed_or_not_reached_waits_for_silence(
    node: Node, clocks: Clocks, case: str
) -> None:
    images = counted(study(), ImagesInAcquisition=SLICES)
    if case != "no trust":
        trusting(node)
    if case == "one does not say":
        del images[4].ImagesInAcquisition
    if case == "too few":
        counted(images, ImagesInAcquisition=SLICES + 1)
    node.receive(images)
    assert node.step() == 0
    assert Series.get().state == "receiving"


def test_more_than_was_announced_replaces_what_was_made(node: Node, clocks: Clocks) -> None:
    trusting(node)
    images = counted(study(slices=14), ImagesInAcquisition=SLICES)
    node.receive(images[:12])
    assert node.step() == 1
    node.receive(images[12:])
    assert node.step() == 0

    clocks.rule(node)
    assert wait(node, clocks, 10) == 1
    assert job_states() == ["superseded", "queued"]
    assert "its headers announced 12" in reason()
