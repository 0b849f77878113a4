"""The sockets that the supervisor makes."""

from __future__ import annotations

import socket

import pytest

from dicomnode.listening import listen

ALL = ["0.0.0.0", "::"] if socket.has_dualstack_ipv6() else ["0.0.0.0"]


@pytest.mark.parametrize("bind", ALL)
def test_all_interfaces_are_all_of_them(bind: str) -> None:
    with listen(bind, 0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            if bind == "::":
                with socket.create_connection(("::1", port), timeout=5):
                    return
