"""Who may use the API: bearers of the tokens that the settings name (RFC 6750)."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus

import structlog
from starlette.requests import Request

from config.errors import SettingsError
from config.web import Right, TokenSettings
from dicomnode.web.problem import Refusal

log = structlog.get_logger(__name__)

MOST_FAILURES = 10
"""Wrong tokens that one address may show within `WINDOW_SECONDS`."""
WINDOW_SECONDS = 60.0
_MOST_ADDRESSES = 1024
_CHALLENGE = 'Bearer realm="medai-node"'


@dataclass(frozen=True)
class Bearer:
    """One who has a token.

    Attributes:
        name: As the settings call it.
        may: What it may do.
        digest: SHA-256 of its secret.
    """

    name: str
    may: tuple[Right, ...]
    digest: bytes


class Bearers:
    """Those whose secrets could be read when the process started.

    Args:
        tokens: The settings, with absolute paths.
        clock: Steady seconds.
    """

    def __init__(
        self, tokens: Iterable[TokenSettings], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bearers = list(_readable(tokens))
        self._failures = _Failures(clock)

    def allow(self, request: Request, right: Right) -> Bearer:
        """Who asks.

        Raises:
            Refusal: 401 without a token or with a wrong one, 429 after many of those from that
                address, 403 where the bearer may not do that.
        """
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise _unknown("A bearer token is wanted.", _CHALLENGE)
        address = _address(request)
        if pause := self._failures.pause(address):
            later = {"Retry-After": str(math.ceil(pause))}
            why = "Too many wrong tokens came from there; try again later."
            raise Refusal(HTTPStatus.TOO_MANY_REQUESTS, why, headers=later)
        bearer = self._bearer_of(shown.strip())
        if bearer is None:
            self._failures.note(address)
            log.warning("token.refused", address=address)
            raise _unknown("That is no token of this node.", f'{_CHALLENGE}, error="invalid_token"')
        if right not in bearer.may:
            challenge = {"WWW-Authenticate": f'{_CHALLENGE}, error="insufficient_scope"'}
            why = f"The bearer of this token may not do that; it takes {right!r}."
            raise Refusal(HTTPStatus.FORBIDDEN, why, headers=challenge)
        return bearer

    def _bearer_of(self, shown: str) -> Bearer | None:
        """Takes as long whichever of them it is, and however much of a secret is right."""
        digest = hashlib.sha256(shown.encode("latin-1")).digest()
        found = None
        for bearer in self._bearers:
            if hmac.compare_digest(bearer.digest, digest):
                found = bearer
        return found


class _Failures:
    """Wrong tokens of the last minute, by the address they came from."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counted: dict[str, tuple[float, int]] = {}  # since when, how many

    def pause(self, address: str) -> float:
        """Seconds for which nothing of that address is looked at."""
        with self._lock:
            since, count = self._counted.get(address, (0.0, 0))
        left = since + WINDOW_SECONDS - self._clock()
        return max(0.0, left) if count >= MOST_FAILURES else 0.0

    def note(self, address: str) -> None:
        """Count one more."""
        now = self._clock()
        with self._lock:
            since, count = self._counted.pop(address, (now, 0))
            if now - since >= WINDOW_SECONDS:
                since, count = now, 0
            self._counted[address] = since, count + 1
            if len(self._counted) > _MOST_ADDRESSES:
                del self._counted[next(iter(self._counted))]  # failed longest ago


def _readable(tokens: Iterable[TokenSettings]) -> Iterable[Bearer]:
    for number, token in enumerate(tokens):
        try:
            secret = token.secret.read(f"web.tokens.{number}.secret")
        except SettingsError as error:
            # It was readable when the node started; what else is served goes on.
            log.error("token.unreadable", token=token.name, why=str(error))
        else:
            yield Bearer(token.name, token.may, hashlib.sha256(secret.encode("ascii")).digest())


def _unknown(why: str, challenge: str) -> Refusal:
    return Refusal(HTTPStatus.UNAUTHORIZED, why, headers={"WWW-Authenticate": challenge})


def _address(request: Request) -> str:
    """Where a request comes from; of IPv6 the network, in which one host has many addresses."""
    # A proxy on this machine tells it, and what it tells is anything.
    try:
        address = ipaddress.ip_address(request.client.host if request.client else "")
    except ValueError:
        return "unknown"
    return str(address if address.version == 4 else ipaddress.ip_network((address, 64), False))
