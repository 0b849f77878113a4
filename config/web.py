"""``[web]``: what is served over HTTP, and who may use its API."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Literal

from pydantic import ConfigDict, Field

from config.errors import SettingsError
from config.kinds import RESTART, Address, Name, Port, Section
from config.secret import HIDDEN, SecretSettings

Right = Literal["feedback"]
_Found = tuple[str, str, str]


class TokenSettings(Section):
    """``[[web.tokens]]``: a program that may use the API, by its bearer token (RFC 6750)."""

    model_config = ConfigDict(json_schema_extra=HIDDEN)

    name: Name = Field(
        description="What the audit chain calls its bearer.", json_schema_extra=RESTART
    )
    secret: SecretSettings
    may: tuple[Right, ...] = Field(
        description="What its bearer may do. feedback: say and read what radiologists say.",
        json_schema_extra=RESTART,
    )


class WebSettings(Section):
    """``[web]``: health, metrics and the API over HTTP."""

    enabled: bool = Field(True, description="Serve HTTP at all.", json_schema_extra=RESTART)
    bind: Address = Field(
        "127.0.0.1", description="Address the HTTP port listens on.", json_schema_extra=RESTART
    )
    port: Port = Field(
        8080, description="The HTTP port; 0 takes a free one.", json_schema_extra=RESTART
    )
    tokens: tuple[TokenSettings, ...] = Field((), json_schema_extra={**RESTART, **HIDDEN})

    def token_faults(self) -> Iterator[_Found]:
        """Find doubled names, and tokens that would go out in the clear.

        Yields:
            Dotted key, what was found, what is allowed.
        """
        names = [token.name for token in self.tokens]
        for index, name in enumerate(names):
            if name in names[:index]:
                key = f"web.tokens.{index}.name"
                yield key, f"the name {name!r} a second time", "names are unique"
        if self.tokens and not ipaddress.ip_address(self.bind).is_loopback:
            yield (
                "web.bind",
                f"{self.bind} beside web.tokens, which would pass there in the clear",
                "bind 127.0.0.1 and put a proxy with TLS in front",
            )

    def secret_faults(self) -> Iterator[_Found]:
        """Find secrets that cannot be read, and two tokens that have the same; as above."""
        known: set[str] = set()
        for index, token in enumerate(self.tokens):
            key = f"web.tokens.{index}.secret"
            try:
                secret = token.secret.read(key)
            except SettingsError as error:
                yield from ((fault.key, fault.found, fault.allowed) for fault in error.faults)
                continue
            if secret in known:
                yield key, "the secret of another token", "each token has its own"
            known.add(secret)
