"""Immediate TCP acknowledgements, where the platform can be asked for them."""

from __future__ import annotations

import socket

_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


def acknowledge_at_once(sock: socket.socket) -> None:
    """Acknowledge what has come, and what comes next, without delay.

    A sender with Nagle's algorithm holds its next segment back until the last is acknowledged, and
    the kernel by itself waits some 40 ms with that. The option does not last: it is set again
    before each wait.
    """
    if _QUICKACK is not None:
        sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
