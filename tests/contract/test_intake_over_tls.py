"""What intake promises holds over TLS too: the same tests, on both paths."""

from __future__ import annotations

import pytest

from tests.contract.test_intake import (  # noqa: F401
    test_a_bad_object_is_refused_quarantined_and_explained,
    test_a_command_set_in_two_fragments,
    test_a_context_that_was_not_accepted,
    test_a_drain_lets_running_associations_finish,
    test_a_peer_killed_in_mid_object,
    test_a_small_object_cut_off_at_every_byte,
    test_a_stop_does_not_wait_for_a_peer_that_is_silent,
    test_after_the_drain_objects_are_refused_and_the_association_released,
    test_an_abort,
    test_an_association_that_falls_silent_is_aborted,
    test_an_object_larger_than_every_buffer,
    test_connections_that_never_ask_are_dropped,
    test_echo_before_between_and_after,
    test_four_associations_send_the_same_instance_at_once,
    test_how_the_message_is_cut_into_pdus_does_not_matter,
    test_rubbish_after_the_request,
    test_rubbish_in_place_of_a_request,
    test_what_is_sent_is_stored_byte_for_byte,
    test_who_may_call,
)


@pytest.fixture(params=["short over TLS", "pynetdicom over TLS"])
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)
