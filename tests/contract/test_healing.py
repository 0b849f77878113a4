"""What the scrub found damaged or missing is whole again once its bytes are sent another time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from storage import audit_check
from storage.scrub import Scrub, findings, summary
from tests.contract.conftest import Node
from tests.contract.wire import Wire
from tests.raw import ct


def overwrite(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7] + b"damaged")


@pytest.mark.feature("F16", "P04")
@pytest.mark.parametrize("journal", [True, False])
@pytest.mark.parametrize("harm", [overwrite, Path.unlink])
def test_an_object_that_is_sent_again_heals_the_stored_one(
    start: Callable[..., Node], journal: bool, harm: Callable[[Path], None]
) -> None:
    node = start(storage={"min_free": 0})
    data = ct() if journal else ct(rows=1500, columns=1000)

    def send() -> int:
        with Wire.associate(node.port) as wire:
            status = wire.store(data, piece=900_000).status
            wire.release()
        assert node.receiver.wait_until_quiet(20)
        return status

    assert send() == 0
    (path,) = node.files()
    harm(path)
    scrubber = Scrub(node.ledger, node.receiver.store, 1 << 40, lambda seconds: False)
    assert scrubber.round()
    assert list(findings()) == ["instance:1"]
    assert send() == 0
    assert node.stored() == [data]
    assert findings() == {}
    assert summary() == []
    (event,) = node.events("object.restored")
    assert event["object"] == "instance:1"
    scrubber.look_again()
    assert node.files() == [node.receiver.store.path(event["object_key"])]
    assert send() == 0
    assert len(node.files()) == len(node.events("object.restored")) == 1
    assert audit_check.verify(node.data_dir).intact
