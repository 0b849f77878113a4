"""What intake promises holds where the journal has no room: every object is a file at once."""

from __future__ import annotations

import pytest

from tests.contract.test_intake import (  # noqa: F401
    test_a_bad_object_is_refused_quarantined_and_explained,
    test_a_database_that_cannot_be_written,
    test_a_disk_that_fills_in_the_middle,
    test_a_peer_killed_in_mid_object,
    test_an_association_is_covered_in_the_audit_chain,
    test_an_object_larger_than_every_buffer,
    test_four_associations_send_the_same_instance_at_once,
    test_how_the_message_is_cut_into_pdus_does_not_matter,
    test_the_same_bytes_twice_are_stored_once,
    test_the_same_uid_with_other_bytes_is_a_revision,
    test_what_is_sent_is_stored_byte_for_byte,
)


@pytest.fixture(params=["short without journal"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("storage.journal.SEGMENTS", 0)  # nor does it grow: no times as many
    return str(request.param)
