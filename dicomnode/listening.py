"""Listening sockets: made by the supervisor, served by the processes it starts."""

from __future__ import annotations

import errno
import os
import resource
import socket
import time
from collections.abc import Callable

import structlog

from config.errors import UsageError

log = structlog.get_logger(__name__)

BACKLOG = 1024
OPEN_FILES = 65536
"""Descriptors that a process may have at most, where the system lets it have so many."""

_PAUSE = 0.2


def allow_open_files() -> None:
    """Let this process and those it starts have as many descriptors open as they may ask for.

    A shell gives 1024, which many connections use up; then even the database cannot be opened.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class PortTakenError(UsageError):
    """Another program listens there."""


def listen(bind: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        bind: IP address.
        port: 0 takes a free one.

    Raises:
        PortTakenError: Another program has the port.
        UsageError: The address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    both = bind == "::" and socket.has_dualstack_ipv6()  # all interfaces means IPv4 as well
    try:
        return socket.create_server(
            (bind, port), family=family, backlog=BACKLOG, dualstack_ipv6=both
        )
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        kind = PortTakenError if error.errno == errno.EADDRINUSE else UsageError
        raise kind(f"cannot listen on {bind} port {port}: {why}") from error


def listen_when_left(
    bind: str, port: int, seconds: float, still_held: Callable[[], bool]
) -> socket.socket:
    """As `listen`, but waits for those who are about to leave the port.

    Args:
        bind: IP address.
        port: 0 takes a free one.
        seconds: How long to wait for them.
        still_held: Whether there is somebody to wait for.

    Raises:
        UsageError: The address cannot be listened on.
    """
    patience = time.monotonic() + seconds
    told = False
    while True:
        try:
            return listen(bind, port)
        except PortTakenError:
            if not still_held() or time.monotonic() > patience:
                raise
        if not told:
            log.warning("port.busy", port=port, waiting_seconds=seconds)
            told = True
        time.sleep(_PAUSE)
